package dnsd

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/postern-mail/postern/internal/org"
)

// Service is something that clients look for.
type Service string

// Services. Submission is both of RFC 6409 and 8314.
const (
	SMTP       Service = "smtp"
	Submission Service = "submission"
	IMAP       Service = "imap"
)

// Server is a server of the group as the door sees it.
type Server struct {
	Name  org.ServerName
	Addrs []netip.Addr
	// Good says which services may be used there; Why what holds back others.
	Good map[Service]bool
	Why  string
	// Ports of the SRV records, by their label as in "_imaps"; 0 for none.
	Ports map[string]uint16
	// DNS says that the server has this door too.
	DNS bool
}

// srvService says which service a label of SRV records is about.
func srvService(label string) (Service, bool) {
	switch label {
	case "_imap", "_imaps":
		return IMAP, true
	case "_submission", "_submissions":
		return Submission, true
	}
	return "", false
}

// zone answers questions. It is a value: no I/O.
type zone struct {
	name    string // canonical, with its final dot
	ttl     uint32
	serial  uint32
	servers []Server
	shuffle func(n int, swap func(i, j int))
}

func newZone(name string, ttl time.Duration, servers []Server, now time.Time) zone {
	return zone{dns.CanonicalName(name), uint32(ttl / time.Second), uint32(now.Unix()), servers, rand.Shuffle}
}

// reply is the answer to a question, without EDNS and not yet cut to a size.
func (z zone) reply(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = false
	switch {
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		return m
	case len(q.Question) != 1:
		m.Rcode = dns.RcodeFormatError
		return m
	}
	ask := q.Question[0]
	name := dns.CanonicalName(ask.Name)
	switch {
	case ask.Qclass != dns.ClassINET, !dns.IsSubDomain(z.name, name), ask.Qtype == dns.TypeAXFR, ask.Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
		return m
	}
	m.Authoritative = true
	known := z.answer(m, ask, name)
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, z.soa())
	}
	return m
}

// answer fills in the records; false where there is no such name.
func (z zone) answer(m *dns.Msg, ask dns.Question, name string) (known bool) {
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.name))
	switch {
	case len(labels) == 0:
		z.apex(m, ask)
		return true
	case len(labels) == 1:
		if s := Service(labels[0]); s == SMTP || s == Submission || s == IMAP {
			z.addresses(m, ask, pick(z.servers, s))
			return true
		}
		for _, s := range z.servers {
			if strings.EqualFold(string(s.Name), labels[0]) {
				z.addresses(m, ask, []Server{s})
				return true
			}
		}
		return labels[0] == "_tcp" // an empty non-terminal (RFC 8020)
	case len(labels) == 2 && labels[1] == "_tcp":
		s, ok := srvService(labels[0])
		if !ok {
			return false
		}
		if ask.Qtype == dns.TypeSRV {
			z.srv(m, ask.Name, labels[0], pick(z.servers, s))
		}
		return true
	}
	return false
}

// apex is the zone's own name.
func (z zone) apex(m *dns.Msg, ask dns.Question) {
	switch ask.Qtype {
	case dns.TypeSOA:
		m.Answer = append(m.Answer, z.soa())
	case dns.TypeNS:
		for _, s := range z.doors() {
			m.Answer = append(m.Answer, &dns.NS{Hdr: z.head(ask.Name, dns.TypeNS), Ns: z.host(s)})
		}
	case dns.TypeANY:
		// RFC 8482: a small answer that says nothing.
		m.Answer = append(m.Answer, &dns.HINFO{Hdr: z.head(ask.Name, dns.TypeHINFO), Cpu: "RFC8482"})
	default:
		z.addresses(m, ask, pick(z.servers, SMTP, Submission, IMAP))
	}
}

// pick returns the servers on which all the services are good; all servers
// when there is none.
func pick(all []Server, services ...Service) []Server {
	var good []Server
	for _, s := range all {
		if !slices.ContainsFunc(services, func(v Service) bool { return !s.Good[v] }) {
			good = append(good, s)
		}
	}
	if len(good) == 0 {
		return all
	}
	return good
}

// addresses answers A and AAAA, in another order each time.
func (z zone) addresses(m *dns.Msg, ask dns.Question, servers []Server) {
	first := len(m.Answer)
	for _, s := range servers {
		for _, a := range s.Addrs {
			switch {
			case ask.Qtype == dns.TypeA && a.Is4():
				m.Answer = append(m.Answer, &dns.A{Hdr: z.head(ask.Name, dns.TypeA), A: a.AsSlice()})
			case ask.Qtype == dns.TypeAAAA && a.Is6():
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: z.head(ask.Name, dns.TypeAAAA), AAAA: a.AsSlice()})
			}
		}
	}
	some := m.Answer[first:]
	z.shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
}

// srv answers with the servers, all of one priority and weight, and their addresses.
func (z zone) srv(m *dns.Msg, owner, label string, servers []Server) {
	for _, s := range servers {
		if s.Ports[label] == 0 {
			continue
		}
		m.Answer = append(m.Answer, &dns.SRV{Hdr: z.head(owner, dns.TypeSRV), Priority: 0, Weight: 1, Port: s.Ports[label], Target: z.host(s)})
		for _, a := range s.Addrs {
			if a.Is4() {
				m.Extra = append(m.Extra, &dns.A{Hdr: z.head(z.host(s), dns.TypeA), A: a.AsSlice()})
			} else {
				m.Extra = append(m.Extra, &dns.AAAA{Hdr: z.head(z.host(s), dns.TypeAAAA), AAAA: a.AsSlice()})
			}
		}
	}
	z.shuffle(len(m.Answer), func(i, j int) { m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i] })
}

// doors are the servers that answer DNS; where none says so the doors are
// processes of their own, and may be at any.
func (z zone) doors() []Server {
	var out []Server
	for _, s := range z.servers {
		if s.DNS {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return z.servers
	}
	return out
}

// host is the name of a server in the zone.
func (z zone) host(s Server) string { return strings.ToLower(string(s.Name)) + "." + z.name }

func (z zone) head(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: z.ttl}
}

// soa says who answers and, by its last field, how long a "no" is kept (RFC 2308).
func (z zone) soa() *dns.SOA {
	first := z.name
	if d := z.doors(); len(d) > 0 {
		first = z.host(d[0])
	}
	return &dns.SOA{Hdr: z.head(z.name, dns.TypeSOA), Ns: first, Mbox: "hostmaster." + z.name, Serial: z.serial, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: z.ttl}
}
