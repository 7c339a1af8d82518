package peers

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/postern-mail/postern/test/rig"
)

// zone is the whole DNS, as a resolver would give it.
type zone struct {
	addr string

	mu   sync.Mutex // guards rows
	rows map[string][]dns.RR
}

// startDNS answers on UDP and TCP at addr.
func startDNS(t *testing.T, addr string) *zone {
	t.Helper()
	z := &zone{addr: addr, rows: map[string][]dns.RR{}}
	pc, err := net.ListenPacket("udp", addr)
	rig.Must(t, err)
	l, err := net.Listen("tcp", addr)
	rig.Must(t, err)
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: z}, {Listener: l, Handler: z}} {
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-done
		})
	}
	return z
}

// add takes records in the form of a zone file.
func (z *zone) add(t *testing.T, records ...string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil || rr == nil {
			t.Fatalf("record %q: %v", r, err)
		}
		name := strings.ToLower(rr.Header().Name)
		z.rows[name] = append(z.rows[name], rr)
	}
}

// text adds a TXT record of any length.
func (z *zone) text(name, value string) {
	rr := &dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}}
	for len(value) > 255 {
		rr.Txt, value = append(rr.Txt, value[:255]), value[255:]
	}
	rr.Txt = append(rr.Txt, value)
	z.mu.Lock()
	defer z.mu.Unlock()
	k := strings.ToLower(rr.Hdr.Name)
	z.rows[k] = append(z.rows[k], rr)
}

// ServeDNS answers with what there is: NXDOMAIN where neither the name nor one
// below it exists.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if len(q.Question) == 1 {
		name := strings.ToLower(q.Question[0].Name)
		z.mu.Lock()
		exists := false
		for k, rows := range z.rows {
			exists = exists || k == name || strings.HasSuffix(k, "."+name)
			for _, rr := range rows {
				if k == name && rr.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		z.mu.Unlock()
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 { // not to be remembered for long (RFC 2308)
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 1}, Ns: "ns.test.", Mbox: "admin.test.", Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: 1}}
		}
	}
	if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // a client that has gone asks again
}
