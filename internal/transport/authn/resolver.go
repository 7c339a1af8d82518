package authn

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"blitiri.com.ar/go/spf"
)

// Resolver asks the DNS. The four look-ups answer as those of *net.Resolver
// do: an error that is a *net.DNSError with IsNotFound says that there is no
// such name or record, any other error is a fault that may pass.
type Resolver interface {
	spf.DNSResolver
	// Exists reports whether a name exists: only the answer "no such name"
	// makes it false, not a name without records of some type (RFC 8020; RFC
	// 9989 section 3.2.13).
	Exists(ctx context.Context, name string) (bool, error)
}

const (
	reverseLimit = 2 * time.Second
	maxAnswers   = 100      // records of one answer that are looked at
	maxTXTOctets = 64 << 10 // octets of one TXT answer that are looked at
	maxSPFRecord = 8 << 10  // octets of an SPF record; RFC 7208 section 3.4 asks for 450
)

// bounded is the resolver that one SPF evaluation gets. It puts names that can
// not exist aside, bounds answers, and gives errors the form the evaluation
// understands: it tells kinds by type, not by errors.As.
//
// The reverse zone and the names in it belong to the client, not to the domain
// that is checked. All look-ups there share reverseLimit, so that a client
// cannot hold up the rest until it ends in temperror.
type bounded struct {
	r       Resolver
	until   time.Time       // for look-ups of the client's names; zero before the first
	clients map[string]bool // those names
}

func (b *bounded) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if !goodName(strings.TrimSuffix(name, ".")) {
		return nil, notFound(name)
	}
	txts, err := lookupTXT(ctx, b.r, name)
	if err != nil {
		return nil, dnsError(name, err)
	}
	for _, t := range txts {
		if !isSPF(t) {
			continue
		}
		why := ""
		if len(t) > maxSPFRecord || !printable(t) {
			why = "record too long or not ASCII"
		} else if err := checkSyntax(t); err != nil {
			why = err.Error()
		}
		if why != "" { // neither temporary nor not found: permerror (RFC 7208 section 4.6)
			return nil, &net.DNSError{Err: clip(why), Name: clip(name)}
		}
	}
	return txts, nil
}

func (b *bounded) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	if !goodName(strings.TrimSuffix(name, ".")) {
		return nil, notFound(name)
	}
	mxs, err := b.r.LookupMX(ctx, name)
	return mxs, dnsError(name, err) // more than 10 are a permerror of the evaluation's own
}

func (b *bounded) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	if b.clients[name] {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, b.until)
		defer cancel()
	}
	if !goodName(strings.TrimSuffix(name, ".")) {
		return nil, notFound(name)
	}
	ips, err := b.r.LookupIPAddr(ctx, name)
	return ips[:min(len(ips), maxAnswers)], dnsError(name, err)
}

func (b *bounded) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	b.until = time.Now().Add(reverseLimit)
	ctx, cancel := context.WithDeadline(ctx, b.until)
	defer cancel()
	names, err := b.r.LookupAddr(ctx, addr)
	names = names[:min(len(names), maxAnswers)]
	b.clients = map[string]bool{}
	for _, n := range names {
		b.clients[n] = true
	}
	return names, dnsError(addr, err)
}

// lookupTXT asks for the texts of a name; none is no error.
func lookupTXT(ctx context.Context, r Resolver, name string) ([]string, error) {
	txts, err := r.LookupTXT(ctx, name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sum := 0
	for i, t := range txts {
		if sum += len(t); sum > maxTXTOctets || i == maxAnswers {
			return txts[:i], nil
		}
	}
	return txts, nil
}

func isSPF(txt string) bool {
	return len(txt) >= 6 && strings.EqualFold(txt[:6], "v=spf1") && (len(txt) == 6 || txt[6] == ' ')
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func isNotFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

func notFound(name string) error {
	return &net.DNSError{Err: "no such name", Name: clip(name), IsNotFound: true}
}

// dnsError makes every fault but "not found" a temporary one: RFC 7208 section
// 2.6.6 counts all of them so.
func dnsError(name string, err error) error {
	if err == nil {
		return nil
	}
	if isNotFound(err) {
		return notFound(name)
	}
	return &net.DNSError{Err: clip(err.Error()), Name: clip(name), IsTemporary: true, IsTimeout: errors.Is(err, context.DeadlineExceeded)}
}
