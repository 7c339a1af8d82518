package node

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
)

func TestProberTellsChangesOnly(t *testing.T) {
	log := &buffer{}
	var state error
	p := &prober{events: event.NewLog(slog.New(slog.NewTextHandler(log, nil))), down: map[string]time.Time{},
		probes: []probe{{"SMTP at :25", func(context.Context) error { return state }}}}
	now := time.Now()
	for i, err := range []error{nil, errors.New("refused"), errors.New("refused"), nil, nil} {
		state = err
		p.turn(t.Context(), now.Add(time.Duration(i)*time.Minute))
	}
	text := log.String()
	if strings.Count(text, "door_down") != 1 || strings.Count(text, "door_up") != 1 || !strings.Contains(text, "answers again after 2m0s") {
		t.Error(text)
	}
}

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
