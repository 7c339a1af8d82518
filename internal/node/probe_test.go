package node

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestGreeting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	banners := make(chan string, 2)
	byes := make(chan string, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, <-banners) // the client judges it
			line, _ := bufio.NewReader(c).ReadString('\n')
			byes <- line
			c.Close()
		}
	}()
	try := greeting(plain(), "220 ", "QUIT\r\n")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	banners <- "220 mbx1.example.test ESMTP\r\n"
	if err := try(ctx, l.Addr().String()); err != nil {
		t.Error(err)
	}
	if got := <-byes; got != "QUIT\r\n" {
		t.Errorf("said goodbye with %q", got)
	}
	banners <- "421 too busy\r\n"
	if err := try(ctx, l.Addr().String()); err == nil || !strings.Contains(err.Error(), "421") {
		t.Error(err)
	}
}

func TestDialable(t *testing.T) {
	for in, want := range map[string]string{":25": "localhost:25", "0.0.0.0:25": "localhost:25", "[::]:25": "localhost:25", "10.0.0.1:25": "10.0.0.1:25"} {
		if got := dialable(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
