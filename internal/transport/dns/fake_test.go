package dns

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a resolver with a zone, over UDP and TCP on loopback.
type fake struct {
	addr  string
	asked atomic.Int32

	mu    sync.Mutex
	zone  map[string][]wire.RR // by owner, lower case
	ad    bool                 // validates
	rcode map[string]int       // by question name
	// odd may answer in place of the zone; ok tells whether it did. A nil
	// answer is silence.
	odd func(q *wire.Msg, tcp bool) (m *wire.Msg, ok bool)
}

func (f *fake) set(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// start serves records given as in a zone file.
func start(t *testing.T, records ...string) *fake {
	t.Helper()
	f := &fake{zone: map[string][]wire.RR{}, rcode: map[string]int{}}
	f.add(t, records...)
	pc, l := listen(t)
	f.addr = pc.LocalAddr().String()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // the last cleanup to run
	for _, s := range []*wire.Server{
		{PacketConn: pc, Handler: wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) { f.serve(w, q, false) })},
		{Listener: l, Handler: wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) { f.serve(w, q, true) })},
	} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		wg.Go(func() { s.ActivateAndServe() })
		<-up
		t.Cleanup(func() { s.Shutdown() })
	}
	return f
}

// listen finds a port that is free for both ways of asking: the system gives
// out one that is free for the first only.
func listen(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	var err error
	for range 100 {
		pc, perr := net.ListenPacket("udp", "127.0.0.1:0")
		if perr != nil {
			t.Fatal(perr)
		}
		var l net.Listener
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		pc.Close()
	}
	t.Fatal(err)
	return nil, nil
}

func (f *fake) add(t *testing.T, records ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range records {
		rr, err := wire.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(rr.Header().Name)
		f.zone[name] = append(f.zone[name], rr)
	}
}

func (f *fake) serve(w wire.ResponseWriter, q *wire.Msg, tcp bool) {
	f.asked.Add(1)
	f.mu.Lock()
	m, ok := (*wire.Msg)(nil), false
	if f.odd != nil {
		m, ok = f.odd(q, tcp)
	}
	if !ok {
		m = f.answer(q, tcp)
	}
	f.mu.Unlock()
	if m != nil {
		w.WriteMsg(m)
	}
}

func (f *fake) answer(q *wire.Msg, tcp bool) *wire.Msg {
	m := new(wire.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.AuthenticatedData = f.ad && q.AuthenticatedData
	name := strings.ToLower(q.Question[0].Name)
	if rc, ok := f.rcode[name]; ok {
		m.Rcode = rc
		return m
	}
	for range 20 {
		var alias string
		for _, rr := range f.zone[name] {
			if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*wire.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				alias = strings.ToLower(c.Target)
			}
		}
		if alias == "" {
			break
		}
		name = alias
	}
	last := uint16(0)
	if n := len(m.Answer); n > 0 {
		last = m.Answer[n-1].Header().Rrtype
	}
	if last != q.Question[0].Qtype {
		soa, _ := wire.NewRR("test. 60 IN SOA ns.test. root.test. 1 1 1 1 40")
		m.Ns = []wire.RR{soa}
		if _, ok := f.zone[name]; !ok {
			m.Rcode = wire.RcodeNameError
		}
	}
	if opt := q.IsEdns0(); !tcp && opt != nil {
		m.Truncate(int(opt.UDPSize()))
	}
	return m
}

// resolver asks the fakes, impatiently.
func resolver(t *testing.T, fs ...*fake) *Resolver {
	t.Helper()
	var c Config
	for _, f := range fs {
		c.Servers = append(c.Servers, f.addr)
	}
	c.Timeout = 300 * time.Millisecond
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
