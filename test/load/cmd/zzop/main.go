package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/test/load"
)

func main() {
	lab := flag.String("lab", "/tmp/lab1/lab.json", "")
	op := flag.String("op", "flag", "")
	d := flag.Duration("d", 8*time.Second, "")
	n := flag.Int("n", 64, "")
	size := flag.String("size", "4k", "")
	flag.Parse()
	t, err := load.LabTarget(*lab)
	if err != nil {
		panic(err)
	}
	l := &load.Lab{Dir: (*lab)[:len(*lab)-9]}
	pids, err := l.LabProcesses()
	if err != nil {
		panic(err)
	}
	if *op == "idle" {
		idle(t, *n, *d)
	}
	cpu := load.CPU(pids)
	begun := time.Now()
	if *op == "smtp" {
		h := load.NewHistory()
		ctx, cancel := context.WithTimeout(context.Background(), *d)
		defer cancel()
		var wg sync.WaitGroup
		for i := range *n {
			s := &load.Sender{Name: fmt.Sprintf("z%d-%d", begun.UnixNano(), i), Number: i, Target: t, History: h, Sizes: load.Sizes(*size), OneRecipient: true}
			wg.Go(func() { s.Run(ctx) })
		}
		wg.Wait()
		c, _, _ := h.Messages()
		lat := h.Latencies("")
		fmt.Printf("smtp %s %d: %.0f/s p50 %v p99 %v cpu %v\n", *size, *n, float64(c)/time.Since(begun).Seconds(), load.Quantile(lat, .5), load.Quantile(lat, .99), (load.CPU(pids)-cpu)/time.Duration(c))
		return
	}
	for _, o := range load.Ops() {
		if o.Name != *op {
			continue
		}
		lat, fails, err := load.RunOp(context.Background(), t, o, *n, *d)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %.0f/s p50 %v p99 %v cpu %v fails %d\n", o.Name, float64(len(lat))/d.Seconds(), load.Quantile(lat, .5), load.Quantile(lat, .99), (load.CPU(pids)-cpu)/time.Duration(max(1,len(lat))), fails)
	}
}
