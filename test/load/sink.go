package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
)

// Manners are what a host of the Sink does to mail for a domain: each is one of
// so many messages, 0 is never and 1 always. The first that fits is done.
type Manners struct {
	Refuse  int           // 550 at RCPT
	Defer   int           // 450 at RCPT
	DeferAt int           // 451 after the dot
	Cut     int           // hangs up in the middle of the data
	Lose    int           // takes the message and hangs up instead of the 250
	Hang    int           // says nothing after the dot for HangFor, then hangs up without taking it
	HangFor time.Duration // how long
}

// Delivery is a message for one recipient.
type Delivery struct {
	ID        ID
	Recipient string
}

// Taken is how often the Sink took a delivery.
type Taken struct {
	Answered int // it said 250
	Silent   int // it took the message and hung up instead
	Sum      Sum
}

// Times is how often in all.
func (t Taken) Times() int { return t.Answered + t.Silent }

// Sink is the outside world: mail servers that remember what they took.
type Sink struct {
	// Forget keeps counts only, for measurements.
	Forget bool
	// Count is how many deliveries were taken, Bytes how large they were, and
	// Deferred how many recipients were turned away for the time being.
	Count, Bytes, Deferred atomic.Int64

	mu      sync.Mutex // guards all below
	manners map[string]Manners
	turns   map[string]int
	taken   map[Delivery]Taken
	changed []Delivery // taken more than once, with different content
	hosts   map[string]*smtp.Server
	running sync.WaitGroup
	ended   chan struct{} // closed when the sink is: nobody hangs any more
}

// NewSink returns one without hosts.
func NewSink() *Sink {
	return &Sink{manners: map[string]Manners{}, turns: map[string]int{}, taken: map[Delivery]Taken{}, hosts: map[string]*smtp.Server{}, ended: make(chan struct{})}
}

// Behave says what happens to mail for a domain from now on; "" is for all
// domains that nothing is said of.
func (s *Sink) Behave(domain string, m Manners) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manners[domain] = m
	maps.DeleteFunc(s.turns, func(k string, _ int) bool { return strings.HasPrefix(k, domain+" ") })
}

// Up lets a host listen at an address.
func (s *Sink) Up(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &visit{sink: s, conn: c}, nil }))
	srv.Domain, srv.MaxMessageBytes, srv.MaxRecipients = "sink.invalid", 64<<20, 1000
	srv.ReadTimeout, srv.WriteTimeout = 5*time.Minute, time.Minute
	srv.ErrorLog = quiet{}
	s.mu.Lock()
	s.hosts[l.Addr().String()] = srv
	s.mu.Unlock()
	s.running.Go(func() { _ = srv.Serve(l) }) // ends with Down
	return nil
}

// quiet is a log that nobody reads: clients are killed all the time.
type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// Down lets a host disappear, with all its connections.
func (s *Sink) Down(addr string) error {
	s.mu.Lock()
	srv := s.hosts[addr]
	delete(s.hosts, addr)
	s.mu.Unlock()
	if srv == nil {
		return fmt.Errorf("sink: no host at %s", addr)
	}
	return srv.Close()
}

// Close ends all hosts and waits for them.
func (s *Sink) Close() error {
	s.mu.Lock()
	select {
	case <-s.ended:
	default:
		close(s.ended)
	}
	hosts := maps.Clone(s.hosts)
	s.mu.Unlock()
	var err error
	for addr := range hosts {
		err = errors.Join(err, s.Down(addr))
	}
	s.running.Wait()
	return err
}

// All is everything that was taken.
func (s *Sink) All() map[Delivery]Taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.taken)
}

// Changed are deliveries that came twice and were not the same.
func (s *Sink) Changed() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Delivery(nil), s.changed...)
}

// turn tells whether it is this message's turn for something that happens to one of n.
func (s *Sink) turn(domain, what string, n int) bool {
	if n <= 0 {
		return false
	}
	s.turns[domain+" "+what]++
	return s.turns[domain+" "+what]%n == 0
}

// fate is what happens to a message.
type fate uint8

const (
	take fate = iota
	refuse
	put  // defer
	late // defer after the dot
	cut
	lose
	hang
)

// atRecipient decides at RCPT; what it cannot show there is done later.
func (s *Sink) atRecipient(domain string) (fate, Manners) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.manners[domain]
	if !ok {
		m = s.manners[""]
	}
	for _, x := range []struct {
		what string
		n    int
		f    fate
	}{{"refuse", m.Refuse, refuse}, {"defer", m.Defer, put}, {"late", m.DeferAt, late}, {"cut", m.Cut, cut}, {"lose", m.Lose, lose}, {"hang", m.Hang, hang}} {
		if s.turn(domain, x.what, x.n) {
			return x.f, m
		}
	}
	return take, m
}

// note remembers a message.
func (s *Sink) note(to []string, raw []byte, answered bool) {
	s.Count.Add(int64(len(to)))
	s.Bytes.Add(int64(len(raw)))
	if s.Forget {
		return
	}
	id, sum, ok := Identify(raw)
	if !ok {
		id = ID("of nobody: " + string(raw[:min(len(raw), 60)]))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range to {
		d := Delivery{id, r}
		t := s.taken[d]
		if t.Times() > 0 && t.Sum != sum {
			s.changed = append(s.changed, d)
		}
		if t.Sum = sum; answered {
			t.Answered++
		} else {
			t.Silent++
		}
		s.taken[d] = t
	}
}

// visit is one connection to the sink.
type visit struct {
	sink *Sink
	conn *smtp.Conn
	to   []string
	fate fate
	how  Manners
}

// Mail implements smtp.Session.
func (v *visit) Mail(string, *smtp.MailOptions) error { v.Reset(); return nil }

// Rcpt implements smtp.Session.
func (v *visit) Rcpt(to string, _ *smtp.RcptOptions) error {
	_, domain, _ := strings.Cut(to, "@")
	f, how := v.sink.atRecipient(strings.ToLower(domain))
	switch f {
	case refuse:
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "Nobody here has that name"}
	case put:
		v.sink.Deferred.Add(1)
		return &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 2, 1}, Message: "Come back later"}
	case take:
	default:
		v.fate, v.how = f, how
	}
	v.to = append(v.to, to)
	return nil
}

// Reset implements smtp.Session.
func (v *visit) Reset() { v.to, v.fate = nil, take }

// Logout implements smtp.Session.
func (v *visit) Logout() error { return nil }

// Data implements smtp.Session.
func (v *visit) Data(r io.Reader) error {
	if v.fate == cut {
		_, _ = io.CopyN(io.Discard, r, 512) // what came of it
		return v.hangUp()
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, r); err != nil {
		return err
	}
	switch v.fate {
	case late:
		v.sink.Deferred.Add(int64(len(v.to)))
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "Not now"}
	case lose:
		v.sink.note(v.to, b.Bytes(), false)
		return v.hangUp()
	case hang:
		ctx, cancel := context.WithTimeout(context.Background(), v.how.HangFor)
		defer cancel()
		select {
		case <-ctx.Done():
		case <-v.sink.ended:
		}
		return v.hangUp()
	}
	v.sink.note(v.to, b.Bytes(), true)
	return nil
}

// errHungUp goes nowhere: the connection is gone.
var errHungUp = errors.New("hung up")

func (v *visit) hangUp() error {
	_ = v.conn.Conn().Close() // the client has to see nothing but that
	return errHungUp
}
