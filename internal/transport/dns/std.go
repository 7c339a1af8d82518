package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"

	wire "github.com/miekg/dns"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Std answers in the words of net.Resolver: names with a final dot, errors as
// *net.DNSError, where IsNotFound says that there is nothing and IsTemporary
// that nobody could tell. SPF evaluation wants it so.
type Std struct{ r *Resolver }

// Std is the resolver in the words of net.Resolver.
func (r *Resolver) Std() Std { return Std{r} }

// LookupTXT is TXT.
func (s Std) LookupTXT(ctx context.Context, name string) ([]string, error) {
	out, _, err := s.r.TXT(ctx, name)
	return out, dnsError(name, err)
}

// LookupMX gives the records as they are: no implicit MX, no confirmation.
func (s Std) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	a, err := s.r.lookup(ctx, name, wire.TypeMX)
	var out []*net.MX
	for _, rr := range a.records {
		if mx, ok := rr.(*wire.MX); ok {
			out = append(out, &net.MX{Host: mx.Mx, Pref: mx.Preference})
		}
	}
	return out, dnsError(name, err)
}

// LookupIPAddr is Addrs.
func (s Std) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	ips, _, err := s.r.Addrs(ctx, host)
	var out []net.IPAddr
	for _, ip := range ips {
		out = append(out, net.IPAddr{IP: ip.AsSlice()})
	}
	return out, dnsError(host, err)
}

// LookupAddr is PTR.
func (s Std) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, dnsError(addr, kind.Errorf(kind.Invalid, "dns ptr: %w", err))
	}
	names, _, err := s.r.PTR(ctx, ip)
	for i := range names {
		names[i] += "."
	}
	return names, dnsError(addr, err)
}

// Exists tells whether there is such a name, with records of whatever type
// (RFC 8020): only the answer "no such name" makes it false.
func (s Std) Exists(ctx context.Context, name string) (bool, error) {
	a, err := s.r.lookup(ctx, name, wire.TypeA)
	switch {
	case err == nil, errors.Is(err, errNoData):
		return true, nil
	case errors.Is(err, errNoName):
		asked, qerr := question(name)
		return qerr == nil && a.name != asked, nil // an alias is a name
	}
	return false, dnsError(name, err)
}

func dnsError(name string, err error) error {
	if err == nil {
		return nil
	}
	return &net.DNSError{Err: err.Error(), Name: name, IsNotFound: kind.Is(err, kind.NotFound), IsTemporary: kind.Is(err, kind.Busy), UnwrapErr: err}
}
