package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"github.com/emersion/go-smtp"
)

// world is a mail server in memory with faults on demand.
type world struct {
	target *Target
	mem    map[string]*imapmemserver.User

	mu      sync.Mutex // guards the faults
	lose    int        // confirm and forget every n-th message
	double  int        // deliver every n-th message twice
	damage  int        // change a byte of every n-th message
	counter int
}

func newWorld(t *testing.T) *world {
	w := &world{mem: map[string]*imapmemserver.User{}}
	mem := imapmemserver.New()
	var users []User
	for i := range 2 {
		u := User{Address: fmt.Sprintf("user%d@example.test", i+1), Password: "secret"}
		m := imapmemserver.NewUser(u.Address, u.Password)
		if err := m.Create("INBOX", nil); err != nil {
			t.Fatal(err)
		}
		mem.AddUser(m)
		w.mem[u.Address] = m
		users = append(users, u)
	}
	is := imapserver.New(&imapserver.Options{InsecureAuth: true, Caps: imap.CapSet{imap.CapIMAP4rev1: {}, imap.CapIMAP4rev2: {}, imap.CapUIDPlus: {}, imap.CapMove: {}},
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return mem.NewSession(), nil, nil
		}})
	ss := smtp.NewServer(w)
	ss.Domain, ss.MaxMessageBytes = "example.test", 10<<20
	srv := &Server{Name: "MEM", IMAP: serve(t, is.Serve, is.Close), SMTP: serve(t, ss.Serve, ss.Close)}
	w.target = &Target{Servers: []*Server{srv}, Users: users}
	return w
}

func serve(t *testing.T, run func(net.Listener) error, stop func() error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = run(l) }()
	t.Cleanup(func() { _ = stop(); <-done })
	return l.Addr().String()
}

// NewSession implements smtp.Backend.
func (w *world) NewSession(*smtp.Conn) (smtp.Session, error) { return &delivery{w: w}, nil }

type delivery struct {
	w  *world
	to []string
}

func (d *delivery) Mail(string, *smtp.MailOptions) error      { return nil }
func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error { d.to = append(d.to, to); return nil }
func (d *delivery) Reset()                                    { d.to = nil }
func (d *delivery) Logout() error                             { return nil }
func every(n, count int) bool                                 { return n > 0 && count%n == 0 }
func (w *world) put(to string, raw []byte) error {
	_, err := w.mem[to].Append("INBOX", bytes.NewReader(raw), &imap.AppendOptions{})
	return err
}

func (d *delivery) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	raw = append([]byte("Received: from load\r\n"), raw...)
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counter++
	if every(w.lose, w.counter) {
		return nil
	}
	if every(w.damage, w.counter) {
		raw[len(raw)-5] ^= 1
	}
	for _, to := range d.to {
		if err := w.put(to, raw); err != nil {
			return err
		}
		if every(w.double, w.counter) {
			if err := w.put(to, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// run puts load on the world for a moment.
func (w *world) run(t *testing.T) *History {
	h := NewHistory()
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 3 {
		s := &Sender{Name: fmt.Sprintf("smtp%d", i), Number: i, Target: w.target, History: h, Sizes: Size4K, Pause: 3 * time.Millisecond}
		wg.Go(func() { s.Run(ctx) })
	}
	for i, u := range w.target.Users {
		s := &Session{Name: fmt.Sprintf("imap%d", i), Number: i, User: u, Target: w.target, History: h}
		wg.Go(func() { s.Run(ctx) })
	}
	wg.Wait()
	return h
}

func TestCheckerIsContentWithAGoodServer(t *testing.T) {
	w := newWorld(t)
	h := w.run(t)
	r, err := Check(w.target, h)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Good() || r.Expected == 0 || r.Read < r.Expected {
		t.Errorf("%+v", r)
	}
	for _, x := range h.Troubles() {
		if x.Kind != Disconnect {
			t.Errorf("%+v", x)
		}
	}
	if c := h.Counts(); c["smtp 250"] == 0 || c["imap append"] == 0 || c["imap move"] == 0 || c["imap flag"] == 0 {
		t.Error(c)
	}
}

func TestCheckerFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*world)
		got  func(Report) []string
	}{
		{"lost", func(w *world) { w.lose = 7 }, func(r Report) []string { return r.Lost }},
		{"doubled", func(w *world) { w.double = 7 }, func(r Report) []string { return r.Doubled }},
		{"damaged", func(w *world) { w.damage = 7 }, func(r Report) []string { return r.Damaged }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.set(w)
			r, err := Check(w.target, w.run(t))
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			r.Print(&out)
			if r.Good() || len(c.got(r)) == 0 || !strings.Contains(out.String(), c.name+": smtp") {
				t.Error(out.String())
			}
		})
	}
}

func TestIdentify(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	raw := Compose("a-1", "x@y.test", []string{"z@y.test"}, 4<<10, r)
	if n := len(raw); n < 4<<10 || n > 4<<10+fillerLine {
		t.Errorf("size %d", n)
	}
	id, sum, ok := Identify(raw)
	id2, sum2, ok2 := Identify(append([]byte("Received: x\r\n y\r\n"), raw...))
	if !ok || !ok2 || id != "a-1" || id2 != id || sum != sum2 {
		t.Error(id, id2, sum, sum2)
	}
	if _, _, ok := Identify([]byte("Subject: x\r\n\r\n\r\nX-Load-Id: a-1\r\n")); ok {
		t.Error("a body is no header")
	}
}

func TestPauses(t *testing.T) {
	h := NewHistory()
	t0 := time.Now()
	step := func(from, to int) Success {
		return Success{At: t0.Add(time.Duration(to) * time.Millisecond), Latency: time.Duration(to-from) * time.Millisecond}
	}
	h.clients["near"] = []Success{step(0, 100), step(100, 900), step(990, 1000), step(1000, 20000)}
	h.clients["died"] = []Success{step(0, 100), step(100, 5000)}
	h.clients["gone"] = []Success{step(0, 100)}
	h.clients["late"] = []Success{step(900, 1000)}
	h.clients["calm"] = []Success{step(0, 100), step(850, 860), step(5000, 5010)}
	h.servers["died"] = []stay{{"MBX1", t0}, {"MBX2", t0.Add(time.Second)}}
	h.servers["near"] = []stay{{"MBX2", t0}}
	f := Fault{At: t0.Add(150 * time.Millisecond), Until: t0.Add(950 * time.Millisecond), Server: "MBX1"}
	got := map[string]time.Duration{}
	for _, p := range h.Pauses(f, "") {
		got[p.Client] = p.Length
	}
	if len(got) != 2 || got["near"] != 800*time.Millisecond || got["calm"] != 10*time.Millisecond {
		t.Error(got)
	}
	var out strings.Builder
	if s := PrintPauses(&out, h, []Fault{f}); s.Worst != 800*time.Millisecond || !strings.Contains(out.String(), "800 ms") {
		t.Error(s, out.String())
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte("X-Load-Id: a\r\nFrom: x\r\n\r\nbody"))
	f.Fuzz(func(t *testing.T, b []byte) { Identify(b) })
}
