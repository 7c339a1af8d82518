package remote

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// nameserver serves records given as in a zone file, on loopback. Names in
// broken are answered with SERVFAIL.
func nameserver(t *testing.T, broken []string, records ...string) *dns.Resolver {
	t.Helper()
	zone := map[string][]wire.RR{}
	for _, s := range records {
		rr, err := wire.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		zone[rr.Header().Name] = append(zone[rr.Header().Name], rr)
	}
	answer := func(rw wire.ResponseWriter, q *wire.Msg) {
		m := new(wire.Msg)
		m.SetReply(q)
		m.RecursionAvailable = true
		name := strings.ToLower(q.Question[0].Name)
		rrs, known := zone[name]
		for _, rr := range rrs {
			if h := rr.Header(); h.Rrtype == q.Question[0].Qtype || h.Rrtype == wire.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
		}
		switch {
		case slices.Contains(broken, name):
			m.Rcode = wire.RcodeServerFailure
		case !known:
			m.Rcode = wire.RcodeNameError
		}
		if opt := q.IsEdns0(); opt != nil && rw.RemoteAddr().Network() == "udp" {
			m.Truncate(int(opt.UDPSize()))
		}
		rw.WriteMsg(m)
	}
	pc, l := bothWays(t)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, s := range []*wire.Server{{PacketConn: pc}, {Listener: l}} {
		up := make(chan struct{})
		s.Handler, s.NotifyStartedFunc = wire.HandlerFunc(answer), func() { close(up) }
		wg.Go(func() { s.ActivateAndServe() })
		<-up
		t.Cleanup(func() { s.Shutdown() })
	}
	r, err := dns.New(dns.Config{Servers: []string{pc.LocalAddr().String()}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// bothWays finds a port that is free for both ways of asking.
func bothWays(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if l, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		pc.Close()
	}
	t.Fatal("no port")
	return nil, nil
}

// TestNames: what DNS says of a domain decides whether its mail waits or goes
// back.
func TestNames(t *testing.T) {
	records := []string{
		"null.test. 60 IN MX 0 .",
		"loop.test. 60 IN CNAME loop2.test.", "loop2.test. 60 IN CNAME loop.test.",
		"six.test. 60 IN MX 5 mx.six.test.", "mx.six.test. 60 IN AAAA 2001:db8::5",
		"bare.test. 60 IN A 192.0.2.1",
		"dangling.test. 60 IN MX 5 gone.test.",
		"half.test. 60 IN MX 5 gone.test.", "half.test. 60 IN MX 10 broken.test.",
		"inside.test. 60 IN MX 5 mx.inside.test.", "mx.inside.test. 60 IN A 10.1.2.3", "mx.inside.test. 60 IN A 127.0.0.1", "mx.inside.test. 60 IN AAAA ::ffff:10.0.0.1",
		"mixed.test. 60 IN MX 5 mx.inside.test.", "mixed.test. 60 IN MX 10 bare.test.",
		"ours.test. 60 IN MX 5 mx.ours.test.", "mx.ours.test. 60 IN A 192.0.2.9",
		"self.test. 60 IN MX 5 out.test.", "self.test. 60 IN MX 5 bare.test.",
		"backup.test. 60 IN MX 5 bare.test.", "backup.test. 60 IN MX 5 mx.six.test.", "backup.test. 60 IN MX 10 out.test.", "backup.test. 60 IN MX 20 mx.ours.test.",
	}
	for i := range 100 {
		records = append(records, fmt.Sprintf("many.test. 60 IN MX %d mx%d.many.test.", i/10, i), fmt.Sprintf("mx%d.many.test. 60 IN A 203.0.113.%d", i, i))
	}
	r := nameserver(t, []string{"broken.test."}, records...)
	const (
		sent  = queue.StateRelayed
		later = queue.StateDeferred
		back  = queue.StateReturned
	)
	for _, c := range []struct {
		domain string
		state  queue.State
		status string
		dials  int
	}{
		{"gone.test", back, "5.1.2", 0},
		{"broken.test", later, "4.4.3", 0},
		{"null.test", back, "5.1.10", 0},
		{"loop.test", back, "", 0},
		{"six.test", sent, "2.6.0", 1},
		{"bare.test", sent, "2.6.0", 1},
		{"dangling.test", back, "5.4.4", 0},
		{"half.test", later, "4.4.3", 0},
		{"inside.test", back, "5.4.4", 0},
		{"mixed.test", sent, "2.6.0", 1},
		{"ours.test", back, "5.4.4", 0},
		{"self.test", back, "5.4.6", 0},
		{"backup.test", sent, "2.6.0", 1},
		{"many.test", later, "4.4.1", maxHosts},
		{"[192.0.2.1]", sent, "2.6.0", 1},
		{"[IPv6:2001:db8::5]", sent, "2.6.0", 1},
		{"[127.0.0.1]", back, "5.4.4", 0},
		{"not a name", back, "", 0},
	} {
		w := newWorld(t)
		w.deps.Resolver = r
		w.deps.Own = func(ip netip.Addr) bool { return ip.String() == "192.0.2.9" }
		w.host("192.0.2.1")
		w.host("2001:db8::5")
		got := w.one("mx:" + c.domain)
		if got.State != c.state || c.status != "" && got.Status != c.status || len(w.dialed) != c.dials || got.Whole != (c.state == later) {
			t.Errorf("%s: %+v, dialed %q", c.domain, got, w.dialed)
		}
	}
}

// TestFamilies: a family that does not work costs one try, and each has its
// source and name.
func TestFamilies(t *testing.T) {
	w := newWorld(t)
	w.zone.addrs["mx.a.test"] = []string{"2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"}
	first, second := w.host("192.0.2.1"), w.host("192.0.2.2")
	w.deps.Sources = []Source{{Address: netip.MustParseAddr("2001:db8:1::1")}, {netip.MustParseAddr("203.0.113.1"), "one.out.test"}, {netip.MustParseAddr("203.0.113.2"), "one.out.test"}}
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed {
		t.Fatalf("%+v", r)
	}
	if first.heard("EHLO one.out.test")+second.heard("EHLO one.out.test") != 1 || len(w.dialed) != 2 || w.from[0] != w.deps.Sources[0].Address || !w.from[1].Is4() {
		t.Errorf("dialed %q from %v", w.dialed, w.from)
	}
	four := w.from[1]
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed || w.from[3] != four {
		t.Errorf("%+v from %v", r, w.from)
	}
	w.deps.Sources = nil
	w.a = nil
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed || w.from[5].IsValid() {
		t.Errorf("%+v from %v", r, w.from)
	}
}

// TestPrivate: labs have everything on loopback.
func TestPrivate(t *testing.T) {
	w := newWorld(t)
	w.deps.Private, w.deps.Port = true, 2525
	w.zone.addrs["mx.a.test"] = []string{"127.0.0.1"}
	w.host("127.0.0.1")
	if r := w.one("mx:a.test"); r.State != queue.StateRelayed || w.dialed[0] != "127.0.0.1:2525" {
		t.Errorf("%+v, dialed %q", r, w.dialed)
	}
}

func TestPublic(t *testing.T) {
	for ip, want := range map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "127.0.0.1": false,
		"169.254.1.1": false, "100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "255.255.255.255": false, "240.0.0.1": false, "224.0.0.1": false, "198.18.0.1": false,
		"::1": false, "::": false, "fe80::1": false, "fc00::1": false, "ff02::1": false, "::ffff:10.0.0.1": false, "::ffff:192.0.2.1": true} {
		if got := public(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %v", ip, got)
		}
	}
}

// FuzzDestination: whatever stands in a row, nothing panics and no domain leads
// inside.
func FuzzDestination(f *testing.F) {
	for _, s := range []string{"mx:a.test", "mx:[127.0.0.1]", "mx:[IPv6:::1]", "mx:[]", "mx:[", "smarthost:[::1]:25", "smarthost:a:b:c", "connector:o1/c", "connector:/", "x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dest string) {
		w := &world{t: t}
		a := New(Deps{Hostname: "out.test", Dial: w.dial})
		r, v, ok := a.routeOf(dest, false)
		if !ok && (v.State != queue.StateDeferred || !v.Whole) {
			t.Errorf("%q: %+v", dest, v)
		}
		if ip, is := literal(r.domain); is && ip.IsLoopback() && len(a.allowed([]netip.Addr{ip})) > 0 {
			t.Errorf("%q leads inside", dest)
		}
	})
}
