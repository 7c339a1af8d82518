package dns

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"

	wire "github.com/miekg/dns"
	"github.com/postern-mail/postern/internal/base/kind"
)

// MX is one host that takes mail for a domain.
type MX struct {
	Host       string // lower case, without a final dot
	Preference uint16 // smaller is tried first
}

// ErrNoMail is wrapped by the error (Invalid) for a domain that says it takes
// no mail (null MX, RFC 7505): 5.1.10.
var ErrNoMail = errors.New("the domain takes no mail")

const maxAddrs = 20

// MX returns the hosts for mail of a domain, sorted by preference, at most 100.
// A domain without MX that has an address is its own host (RFC 5321 section
// 5.1).
func (r *Resolver) MX(ctx context.Context, domain string) ([]MX, Info, error) {
	a, err := r.lookup(ctx, domain, wire.TypeMX)
	if kind.Is(err, kind.NotFound) {
		a = r.confirm(ctx, domain, wire.TypeMX, a)
		err = a.err
	}
	switch {
	case errors.Is(err, errNoData):
		return r.implicitMX(ctx, domain, a)
	case err != nil:
		return nil, a.info(), err
	}
	hosts, err := mxOf(a.records)
	if err != nil {
		return nil, a.info(), kind.Errorf(kind.Invalid, "%s: %w", label(domain, wire.TypeMX), err)
	}
	return hosts, a.info(), nil
}

func (r *Resolver) implicitMX(ctx context.Context, domain string, no answer) ([]MX, Info, error) {
	_, info, err := r.Addrs(ctx, domain)
	if kind.Is(err, kind.NotFound) && r.hasAddr(ctx, domain) {
		_, info, err = r.Addrs(ctx, domain)
	}
	if err != nil {
		return nil, info, err
	}
	info.Authentic = info.Authentic && no.authentic
	name, _ := host(domain) // it was asked for
	return []MX{{Host: name}}, info, nil
}

// hasAddr asks the other resolvers about a domain that one of them says has no
// address; what they find is remembered.
func (r *Resolver) hasAddr(ctx context.Context, domain string) bool {
	for _, qtype := range []uint16{wire.TypeA, wire.TypeAAAA} {
		a, err := r.lookup(ctx, domain, qtype)
		if kind.Is(err, kind.NotFound) && r.confirm(ctx, domain, qtype, a).err == nil {
			return true
		}
	}
	return false
}

// mxOf takes the hosts out of records.
func mxOf(rrs []wire.RR) ([]MX, error) {
	var out []MX
	null := false
	for _, rr := range rrs {
		mx, ok := rr.(*wire.MX)
		if !ok {
			continue
		}
		if mx.Mx == "." { // counts only where it stands alone
			null = true
		} else if name, ok := host(mx.Mx); ok {
			out = append(out, MX{name, mx.Preference})
		}
	}
	switch {
	case len(out) == 0 && null:
		return nil, ErrNoMail
	case len(out) == 0:
		return nil, errors.New("no MX names a host")
	}
	slices.SortStableFunc(out, func(a, b MX) int { return int(a.Preference) - int(b.Preference) })
	return out, nil
}

// Addrs returns the addresses of a host, IPv6 first, at most 20. It fails only
// where neither family has one; Busy then means that there may be one.
// Info.Authentic holds for every family that was answered for.
func (r *Resolver) Addrs(ctx context.Context, host string) ([]netip.Addr, Info, error) {
	six := make(chan answer, 1)
	go func() {
		a, err := r.lookup(ctx, host, wire.TypeAAAA)
		a.err = err
		six <- a
	}()
	v4, err := r.lookup(ctx, host, wire.TypeA)
	v4.err = err
	v6 := <-six
	out := append(addrsOf(v6.records), addrsOf(v4.records)...)
	info := both(v4, v6)
	switch {
	case len(out) > 0:
		return out[:min(len(out), maxAddrs)], info, nil
	case v4.err == nil && v6.err == nil:
		return nil, info, kind.Errorf(kind.Invalid, "%s: an answer without an address", label(host, wire.TypeA))
	case v4.err == nil || kind.Is(v4.err, kind.NotFound) && v6.err != nil:
		return nil, info, v6.err
	}
	return nil, info, v4.err
}

// both joins what is known beside the addresses.
func both(v4, v6 answer) Info {
	info := Info{TTL: maxTTL}
	first := true
	for _, a := range []answer{v4, v6} {
		if a.err != nil && !kind.Is(a.err, kind.NotFound) {
			continue
		}
		info.Authentic = a.authentic && (first || info.Authentic)
		info.TTL = min(info.TTL, a.ttl)
		if info.Name == "" || a.err == nil {
			info.Name = a.info().Name
		}
		first = false
	}
	return info
}

func addrsOf(rrs []wire.RR) []netip.Addr {
	var out []netip.Addr
	for _, rr := range rrs {
		var ip netip.Addr
		var ok bool
		switch rr := rr.(type) {
		case *wire.A:
			ip, ok = netip.AddrFromSlice(rr.A.To4())
		case *wire.AAAA:
			ip, ok = netip.AddrFromSlice(rr.AAAA)
		}
		if ip = ip.Unmap(); ok && !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

// TXT returns text records, the strings of each joined (RFC 7208 section 3.3).
func (r *Resolver) TXT(ctx context.Context, name string) ([]string, Info, error) {
	a, err := r.lookup(ctx, name, wire.TypeTXT)
	var out []string
	for _, rr := range a.records {
		if t, ok := rr.(*wire.TXT); ok {
			out = append(out, unescape(strings.Join(t.Txt, "")))
		}
	}
	return out, a.info(), err
}

// TLSA is a certificate association (RFC 6698 section 2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// TLSA returns the associations of a name such as _25._tcp.mx.example. They
// mean something only where Info.Authentic is true.
func (r *Resolver) TLSA(ctx context.Context, name string) ([]TLSA, Info, error) {
	a, err := r.lookup(ctx, name, wire.TypeTLSA)
	var out []TLSA
	for _, rr := range a.records {
		if t, ok := rr.(*wire.TLSA); ok {
			if data, err := hex.DecodeString(t.Certificate); err == nil {
				out = append(out, TLSA{t.Usage, t.Selector, t.MatchingType, data})
			}
		}
	}
	return out, a.info(), err
}

// PTR returns the names of an address, at most 10. Whoever runs the address
// writes them: look whether the name has the address.
func (r *Resolver) PTR(ctx context.Context, ip netip.Addr) ([]string, Info, error) {
	name, err := wire.ReverseAddr(ip.Unmap().WithZone("").String())
	if err != nil {
		return nil, Info{}, kind.Errorf(kind.Invalid, "dns ptr: %w", err)
	}
	a, err := r.lookup(ctx, name, wire.TypePTR)
	var out []string
	for _, rr := range a.records {
		if p, ok := rr.(*wire.PTR); ok && len(out) < 10 {
			if n, ok := host(p.Ptr); ok {
				out = append(out, n)
			}
		}
	}
	return out, a.info(), err
}

// unescape turns \DDD and \X of the library's presentation format into the
// bytes that came.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) && digits(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
			continue
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
