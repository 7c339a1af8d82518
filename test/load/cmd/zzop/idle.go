package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/postern-mail/postern/test/load"
)

func idle(t *load.Target, n int, d time.Duration) {
	stop, err := load.HoldIdle(context.Background(), t, n)
	if err != nil {
		panic(err)
	}
	fmt.Println("idle")
	time.Sleep(d)
	stop()
	os.Exit(0)
}
