package dnsd

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

func three() []Server {
	ports := map[string]uint16{"_imaps": 993, "_submissions": 465}
	all := map[Service]bool{SMTP: true, Submission: true, IMAP: true}
	return []Server{
		{Name: "MBX1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, Good: all, Ports: ports, DNS: true},
		{Name: "MBX2", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Good: map[Service]bool{SMTP: true}, Why: "imap is Draining", Ports: ports, DNS: true},
		{Name: "MBX3", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.3")}, Good: all, Ports: ports},
	}
}

func zoneOf(servers []Server) zone {
	return zone{"mail.example.com.", 30, 1, servers, func(int, func(i, j int)) {}}
}

// ask returns the records of an answer without their names and TTLs.
func ask(z zone, name string, t uint16) (rcode int, records []string, m *dns.Msg) {
	q := new(dns.Msg)
	q.SetQuestion(name, t)
	m = z.reply(q)
	for _, r := range m.Answer {
		f := strings.Fields(r.String())
		records = append(records, strings.Join(f[4:], " "))
	}
	return m.Rcode, records, m
}

// TestAnswers goes through the names of a zone: who is healthy is answered, and
// everybody when nobody is.
func TestAnswers(t *testing.T) {
	none := three()
	for i := range none {
		none[i].Good = nil
	}
	for _, c := range []struct {
		servers []Server
		name    string
		kind    uint16
		rcode   int
		want    string
	}{
		{three(), "mail.example.com.", dns.TypeA, 0, "192.0.2.1 192.0.2.3"},
		{three(), "MAIL.Example.com.", dns.TypeA, 0, "192.0.2.1 192.0.2.3"},
		{three(), "mail.example.com.", dns.TypeAAAA, 0, "2001:db8::1"},
		{three(), "smtp.mail.example.com.", dns.TypeA, 0, "192.0.2.1 192.0.2.2 192.0.2.3"},
		{three(), "imap.mail.example.com.", dns.TypeA, 0, "192.0.2.1 192.0.2.3"},
		{three(), "mbx2.mail.example.com.", dns.TypeA, 0, "192.0.2.2"},
		{three(), "mbx2.mail.example.com.", dns.TypeAAAA, 0, ""},
		{three(), "_imaps._tcp.mail.example.com.", dns.TypeSRV, 0, "0 1 993 mbx1.mail.example.com. 0 1 993 mbx3.mail.example.com."},
		{three(), "_imap._tcp.mail.example.com.", dns.TypeSRV, 0, ""}, // no such port
		{three(), "_tcp.mail.example.com.", dns.TypeSRV, 0, ""},
		{three(), "_pop3._tcp.mail.example.com.", dns.TypeSRV, dns.RcodeNameError, ""},
		{three(), "mail.example.com.", dns.TypeNS, 0, "mbx1.mail.example.com. mbx2.mail.example.com."},
		{three(), "mail.example.com.", dns.TypeSOA, 0, "mbx1.mail.example.com. hostmaster.mail.example.com. 1 3600 600 86400 30"},
		{three(), "mail.example.com.", dns.TypeANY, 0, `"RFC8482" ""`},
		{three(), "nobody.mail.example.com.", dns.TypeA, dns.RcodeNameError, ""},
		{three(), "example.com.", dns.TypeA, dns.RcodeRefused, ""},
		{three(), "notmail.example.com.", dns.TypeA, dns.RcodeRefused, ""},
		{three(), "mail.example.com.", dns.TypeAXFR, dns.RcodeRefused, ""},
		{none, "mail.example.com.", dns.TypeA, 0, "192.0.2.1 192.0.2.2 192.0.2.3"},
		{none, "_imaps._tcp.mail.example.com.", dns.TypeSRV, 0, "0 1 993 mbx1.mail.example.com. 0 1 993 mbx2.mail.example.com. 0 1 993 mbx3.mail.example.com."},
	} {
		rcode, got, m := ask(zoneOf(c.servers), c.name, c.kind)
		if rcode != c.rcode || strings.Join(got, " ") != c.want {
			t.Errorf("%s %s: %s %v, want %s %s", c.name, dns.TypeToString[c.kind], dns.RcodeToString[rcode], got, dns.RcodeToString[c.rcode], c.want)
		}
		if m.RecursionAvailable || rcode != dns.RcodeRefused && !m.Authoritative || rcode != dns.RcodeRefused && len(got) == 0 && len(m.Ns) != 1 {
			t.Errorf("%s %s: flags or SOA: %s", c.name, dns.TypeToString[c.kind], m)
		}
	}
}

// TestLimit gives a network 20 answers a second; of those beyond every second one
// is told to come over TCP. Memory is bounded.
func TestLimit(t *testing.T) {
	l, now := newLimiter(), time.Unix(1e9, 0)
	count := map[verdict]int{}
	for i := range 120 {
		count[l.judge(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), now)]++
	}
	if count[answerIt] != 20 || count[overTCP] != 50 || count[dropIt] != 50 {
		t.Errorf("verdicts %v", count)
	}
	if v := l.judge(netip.MustParseAddr("192.0.3.1"), now); v != answerIt {
		t.Error("another network pays for it")
	}
	if v := l.judge(netip.MustParseAddr("192.0.2.9"), now.Add(time.Second)); v != answerIt {
		t.Error("a second later it is still limited")
	}
	for i := range 3 * maxNetworks {
		l.judge(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
		l.judge(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 1}), now)
	}
	if len(l.networks) > maxNetworks {
		t.Errorf("%d networks are kept", len(l.networks))
	}
}

// world is a door on loopback, with servers that a test changes.
type world struct {
	mu      sync.Mutex // guards servers
	servers []Server
	addr    string
}

func (w *world) list() []Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.servers)
}

func open(t *testing.T, servers []Server) *world {
	t.Helper()
	w := &world{servers: servers}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	l.Close()
	d, err := New(Config{Listen: []string{w.addr}, Zone: "mail.example.com", TTL: conf.Duration(30 * time.Second)},
		Deps{Servers: w.list, Log: slog.New(slog.DiscardHandler), Events: event.NewLog(slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	select {
	case <-d.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestDoor asks over UDP and TCP; an answer too large for UDP is cut and whole over TCP.
func TestDoor(t *testing.T) {
	servers := three()
	for i := range 60 {
		servers = append(servers, Server{Name: org.ServerName(fmt.Sprintf("MBX%d", 10+i)), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})},
			Good: servers[0].Good, Ports: servers[0].Ports})
	}
	w := open(t, servers)
	q := new(dns.Msg)
	q.SetQuestion("_imaps._tcp.mail.example.com.", dns.TypeSRV)
	for _, edns := range []uint16{0, 512, 1232, 4096} {
		if q.Extra = nil; edns > 0 {
			q.SetEdns0(edns, false)
		}
		m, _, err := (&dns.Client{Net: "udp", UDPSize: 4096}).Exchange(q, w.addr)
		if err != nil {
			t.Fatal(err)
		}
		m.Compress = true
		if b, err := m.Pack(); !m.Truncated || err != nil || len(b) > max(512, min(1232, int(edns))) {
			t.Errorf("EDNS %d: truncated %t, %d bytes, %v", edns, m.Truncated, len(b), err)
		}
	}
	m, _, err := (&dns.Client{Net: "tcp"}).Exchange(q, w.addr)
	if err != nil || m.Truncated || len(m.Answer) != 62 {
		t.Errorf("TCP: %v, %d answers", err, len(m.Answer))
	}
}

// TestLossOfServers takes one server after the other away and brings one back: an
// answer follows within two seconds, and is never empty.
func TestLossOfServers(t *testing.T) {
	w := open(t, three())
	begun := time.Now()
	for _, step := range []struct {
		good string
		want string
	}{
		{"MBX1 MBX3", "192.0.2.1 192.0.2.3"}, {"MBX3", "192.0.2.3"}, {"", "192.0.2.1 192.0.2.2 192.0.2.3"}, {"MBX2", "192.0.2.2"},
	} {
		w.mu.Lock()
		for i := range w.servers {
			w.servers[i].Good = nil
			if strings.Contains(step.good, string(w.servers[i].Name)) {
				w.servers[i].Good = map[Service]bool{SMTP: true, Submission: true, IMAP: true}
			}
		}
		w.mu.Unlock()
		changed := time.Now()
		tick := time.NewTicker(100 * time.Millisecond)
		for {
			q := new(dns.Msg)
			q.SetQuestion("mail.example.com.", dns.TypeA)
			m, _, err := (&dns.Client{Net: "tcp"}).Exchange(q, w.addr)
			if err != nil || len(m.Answer) == 0 {
				t.Fatalf("no answer: %v", err)
			}
			var got []string
			for _, r := range m.Answer {
				got = append(got, r.(*dns.A).A.String())
			}
			slices.Sort(got)
			if strings.Join(got, " ") == step.want {
				break
			}
			if time.Since(changed) > 5*time.Second {
				t.Fatalf("good %q: still %v", step.good, got)
			}
			<-tick.C
		}
		tick.Stop()
		t.Logf("healthy %q answered after %s", step.good, time.Since(changed).Round(10*time.Millisecond))
	}
	t.Logf("took %s", time.Since(begun).Round(time.Millisecond))
}

// TestLossOfPackets asks through a path that drops every third packet each way,
// as a resolver does: it tries again, then over TCP. All questions are answered.
func TestLossOfPackets(t *testing.T) {
	w := open(t, three())
	path, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer path.Close()
	wg.Go(func() { lossy(t, path, w.addr, &wg) })
	lost := 0
	for range 15 {
		q := new(dns.Msg)
		q.SetQuestion("imap.mail.example.com.", dns.TypeA)
		var m *dns.Msg
		err := fmt.Errorf("not tried")
		for range 3 {
			if m, _, err = (&dns.Client{Net: "udp", Timeout: 100 * time.Millisecond}).Exchange(q, path.LocalAddr().String()); err == nil {
				break
			}
			lost++
		}
		if err != nil || m.Truncated {
			m, _, err = (&dns.Client{Net: "tcp"}).Exchange(q, w.addr)
		}
		if err != nil || len(m.Answer) != 2 {
			t.Fatalf("not answered: %v", err)
		}
	}
	if lost == 0 {
		t.Error("nothing was lost: the test shows nothing")
	}
}

func lossy(t *testing.T, path net.PacketConn, to string, wg *sync.WaitGroup) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 2048)
	for {
		n, from, err := path.ReadFrom(b)
		if err != nil {
			return
		}
		if r.IntN(3) == 0 {
			continue
		}
		back := r.IntN(3) == 0
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			t.Error(err)
		}
		wg.Go(func() {
			defer c.Close()
			answer := make([]byte, 2048)
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Error(err)
			}
			n, err := c.Read(answer)
			if err != nil || back {
				return
			}
			_, _ = path.WriteTo(answer[:n], from) // a closed path at the end of the test
		})
	}
}

// FuzzAnswer: whatever comes in, the reply can be written, is not larger than it
// may be and never answers outside the zone.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"mail.example.com.", "_imaps._tcp.mail.example.com.", "x.org."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		q.SetEdns0(4096, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	door, err := New(Config{Zone: "mail.example.com", TTL: conf.Duration(30 * time.Second)}, Deps{Servers: three})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		for _, udp := range []bool{true, false} {
			m := door.answer(q, udp, false)
			out, err := m.Pack()
			if err != nil {
				t.Fatalf("reply to %s: %v", q, err)
			}
			if udp && len(out) > maxUDP {
				t.Errorf("%d bytes over UDP", len(out))
			}
			for _, r := range m.Answer {
				if !dns.IsSubDomain("mail.example.com.", dns.CanonicalName(r.Header().Name)) {
					t.Errorf("answers %s", r)
				}
			}
		}
	})
}
