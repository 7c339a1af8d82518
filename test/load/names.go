package load

import (
	"fmt"
	"net"
	"strings"

	"github.com/miekg/dns"
)

// Names is a name server for the outside world of a test: domains with an MX,
// hosts with an address. It knows nothing else.
type Names struct {
	Addr string // host:port, the same for UDP and TCP

	mx      map[string]string // domain to host
	hosts   map[string]net.IP
	servers []*dns.Server
	done    []chan struct{}
}

// StartNames answers at an address, host:port. hosts are domains and the address
// of the host that takes their mail.
func StartNames(addr string, hosts map[string]string) (*Names, error) {
	n := &Names{Addr: addr, mx: map[string]string{}, hosts: map[string]net.IP{}}
	for domain, ip := range hosts {
		host := "mx." + domain + "."
		n.mx[domain+"."], n.hosts[host] = host, net.ParseIP(ip)
	}
	for _, network := range []string{"udp", "tcp"} {
		ready := make(chan struct{})
		s := &dns.Server{Addr: addr, Net: network, Handler: n, NotifyStartedFunc: func() { close(ready) }}
		done := make(chan struct{})
		failed := make(chan error, 1)
		go func() {
			defer close(done)
			failed <- s.ListenAndServe()
		}()
		select {
		case <-ready:
			n.servers, n.done = append(n.servers, s), append(n.done, done)
		case err := <-failed:
			n.Close()
			return nil, fmt.Errorf("names: %w", err)
		}
	}
	return n, nil
}

// Close ends it.
func (n *Names) Close() {
	for i, s := range n.servers {
		_ = s.Shutdown() // it runs
		<-n.done[i]
	}
}

// ServeDNS implements dns.Handler.
func (n *Names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if len(q.Question) == 1 {
		n.answer(m, strings.ToLower(q.Question[0].Name), q.Question[0].Qtype)
	}
	_ = w.WriteMsg(m) // who asked asks again
}

func (n *Names) answer(m *dns.Msg, name string, kind uint16) {
	head := dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 60}
	host, domain := n.mx[name]
	ip, isHost := n.hosts[name]
	switch {
	case domain && kind == dns.TypeMX:
		m.Answer = append(m.Answer, &dns.MX{Hdr: head, Preference: 10, Mx: host})
	case isHost && kind == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: head, A: ip})
	case !domain && !isHost:
		m.Rcode = dns.RcodeNameError
	}
}
