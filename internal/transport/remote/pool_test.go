package remote

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/transport/queue"
)

// TestReuse: a session carries several messages, until it was idle for 10
// seconds, is five minutes old or had 100 messages.
func TestReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.host("192.0.2.1")
		w.run()
		send := func(n, sessions int, what string) {
			t.Helper()
			for range n {
				if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
					t.Errorf("%s: %+v", what, r)
				}
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.sessions != sessions {
				t.Errorf("%s: %d sessions, want %d", what, p.sessions, sessions)
			}
		}
		send(3, 1, "at once")
		time.Sleep(9 * time.Second)
		send(1, 1, "soon")
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if p.heard("QUIT") != 1 || w.a.pool.total != 0 {
			t.Errorf("idle: said %q, %d connections", p.said, w.a.pool.total)
		}
		send(100, 2, "a hundred")
		send(1, 3, "and one")
		for range 37 { // a session of its own, used until it is too old
			time.Sleep(8 * time.Second)
			send(1, 3, "kept")
		}
		time.Sleep(8 * time.Second)
		send(1, 4, "old")
	})
}

// TestReuseBroken: a session that the host closed meanwhile costs nothing, and
// one that is not good enough is not used.
func TestReuseBroken(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	w.run()
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
		t.Fatalf("%+v", r)
	}
	closed := fmt.Sprintf("MAIL FROM:<sender@out.test> SIZE=%d", len(letter))
	p.set(closed, "421 4.4.2 idle for too long")
	work := w.work("mx:a.test", letter, "user@a.test")
	work.Mine = func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.sessions == 2 {
			delete(p.act, closed)
		}
		return nil
	}
	if r := w.send(work)[0]; r.State != queue.StateRelayed || p.sessions != 2 || len(p.got()) != 2 {
		t.Errorf("%+v after %d sessions", r, p.sessions)
	}
	work.Message.Envelope.RequireTLS = true
	if w.send(work); p.sessions != 2 {
		t.Error("a session in clear was offered to a message that needs TLS")
	}
}

// TestLimits: no more connections than there may be; who waits gets the place
// of an idle one, or gives up with its time.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(time.Now)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range maxPerDest {
			if _, err := p.reserve(ctx, "mx:a.test", "none", maxPerDest); err != nil {
				t.Fatal(err)
			}
		}
		got := make(chan error, 1)
		go func() {
			_, err := p.reserve(ctx, "mx:a.test", "none", maxPerDest)
			got <- err
		}()
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("one too many: %v", err)
		default:
		}
		p.release("mx:a.test")
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		for i := range maxConnections - maxPerDest {
			if _, err := p.reserve(ctx, fmt.Sprintf("mx:%d.test", i), "none", maxPerDest); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.reserve(ctx, "mx:b.test", "none", maxPerDest); err == nil || p.total != maxConnections {
			t.Errorf("%v, %d connections", err, p.total)
		}
	})
}

// TestEvict: an idle session gives way.
func TestEvict(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	w.run()
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
		t.Fatalf("%+v", r)
	}
	for range maxPerDest {
		if _, err := w.a.pool.reserve(t.Context(), "mx:a.test", "none", maxPerDest); err != nil {
			t.Fatal(err)
		}
	}
	if w.a.pool.take("mx:a.test") != nil || w.a.pool.alive("mx:a.test") != 0 || w.a.pool.total != maxPerDest {
		t.Errorf("%d sessions, %d connections", w.a.pool.alive("mx:a.test"), w.a.pool.total)
	}
	if len(p.got()) != 1 {
		t.Error("nothing arrived")
	}
}

// TestHang: each stage has its time, after which the next attempt has its turn.
func TestHang(t *testing.T) {
	for _, c := range []struct {
		at    string
		limit time.Duration
		flags [3]bool // whole, slow, doubtful
	}{
		{"connect", 30 * time.Second, [3]bool{true}}, {"greeting", 5 * time.Minute, [3]bool{true}}, {"EHLO", 5 * time.Minute, [3]bool{true}},
		{"MAIL", 5 * time.Minute, [3]bool{true}}, {"RCPT", 5 * time.Minute, [3]bool{true}}, {"DATA", 2 * time.Minute, [3]bool{true}},
		{".", 10 * time.Minute, [3]bool{false, true, true}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.host("192.0.2.1")
			p.act[c.at] = hang
			start := time.Now()
			r := w.one("mx:a.test")
			if r.State != queue.StateDeferred || [3]bool{r.Whole, r.Slow, r.Doubtful} != c.flags || time.Since(start) > c.limit+time.Second {
				t.Errorf("%s: %+v after %s", c.at, r, time.Since(start))
			}
		})
	}
}

// TestBeside: a connection that fails beside one that works is no reason to
// give up the destination; beside one that is only being tried it is.
func TestBeside(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	p.act["greeting"] = "421 4.7.0 too many connections"
	if _, err := w.agent().pool.reserve(t.Context(), "mx:a.test", "none", maxPerDest); err != nil {
		t.Fatal(err)
	}
	if r := w.one("mx:a.test"); !r.Whole || r.Slow || r.State != queue.StateDeferred {
		t.Errorf("%+v", r)
	}
	w.a.pool.established(&session{dest: "mx:a.test"})
	if r := w.one("mx:a.test"); r.Whole || !r.Slow || r.State != queue.StateDeferred {
		t.Errorf("%+v", r)
	}
}

// TestIdleUnfit: an idle session with a host that cannot have the message is
// not tried again and again, and stays for others.
func TestIdleUnfit(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	p.ext = nil
	w.run()
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
		t.Fatalf("%+v", r)
	}
	work := w.work("mx:a.test", letter+"\xff\r\n", "user@a.test")
	if r := w.send(work)[0]; r.State != queue.StateReturned || r.Status != "5.6.3" || p.sessions != 2 {
		t.Errorf("%+v after %d sessions", r, p.sessions)
	}
}

// TestCold: an address that swallows packets costs its time once, and is tried
// after the others until it answers again.
func TestCold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.zone.addrs["mx.a.test"] = []string{"2001:db8::1", "192.0.2.1"}
		six, four := w.host("2001:db8::1"), w.host("192.0.2.1")
		six.act["connect"] = hang
		start := time.Now()
		for range 3 {
			if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
				t.Errorf("%+v", r)
			}
		}
		if took := time.Since(start); took != 30*time.Second || len(four.got()) != 3 {
			t.Errorf("%d messages in %s", len(four.got()), took)
		}
		four.set("greeting", drop)
		six.set("connect", "")
		if r := w.one("mx:a.test"); r.State != queue.StateRelayed || len(six.got()) != 1 {
			t.Errorf("the last resort: %+v", r)
		}
		if w.one("mx:a.test"); len(w.dialed) != 7 {
			t.Errorf("dialed %q", w.dialed)
		}
		c, now := newCold(), time.Now()
		for i := range maxCold + 1 {
			c.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{0, 0, byte(i >> 8), byte(i)}), 25), now)
		}
		if len(c.until) != maxCold {
			t.Errorf("%d remembered", len(c.until))
		}
		late := now.Add(coldTime)
		c.add(netip.AddrPort{}, late)
		if !c.is(netip.AddrPort{}, late) || len(c.until) != 1 || c.is(netip.AddrPort{}, late.Add(coldTime)) {
			t.Errorf("%d remembered", len(c.until))
		}
	})
}

// TestConcurrent: many at a time share few connections, over real sockets and
// from the address that was chosen.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := w.host("")
	from := make(chan string, 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from <- c.RemoteAddr().(*net.TCPAddr).IP.String()
			wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	w.zone.addrs["mx.a.test"] = []string{"127.0.0.1"}
	w.deps.Dial, w.deps.Private, w.deps.Port = nil, true, uint16(l.Addr().(*net.TCPAddr).Port)
	w.deps.Sources = []Source{{Address: netip.MustParseAddr("127.0.0.7")}}
	w.run()
	const workers, each = 40, 10
	var senders sync.WaitGroup
	for range workers {
		senders.Go(func() {
			for range each {
				if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	senders.Wait()
	// One that served its number of messages may have been followed by another.
	if n := len(from); n > maxPerDest+workers*each/maxMessages || len(p.got()) != workers*each || <-from != "127.0.0.7" {
		t.Errorf("%d messages over %d sessions", len(p.got()), n)
	}
}
