package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	wire "github.com/miekg/dns"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// Limits of what is believed for how long and how much of it.
const (
	maxTTL      = 24 * time.Hour
	maxNegative = 5 * time.Minute
	failureTTL  = 5 * time.Second // RFC 9520 section 3.2
	maxAliases  = 10
	maxRecords  = 100
	maxBytes    = 64 << 10 // of records
)

// Info is what comes with every answer.
type Info struct {
	// Authentic: validated by DNSSEC from the name asked for to the records.
	Authentic bool
	// TTL is how long the answer holds, at most a day.
	TTL time.Duration
	// Name is the one that has the records: that asked for, or the end of its
	// aliases (CNAME), without a final dot.
	Name string
}

// answer is what resolvers said of a name and a type.
type answer struct {
	records   []wire.RR
	name      string // with the final dot
	authentic bool
	ttl       time.Duration
	err       error // NotFound, Busy or Invalid; records is empty
	by        int   // which resolver said it
	confirmed bool  // NotFound: a second one says so too
}

func (a answer) size() int {
	n := 200 // the entry itself
	for _, rr := range a.records {
		n += 80 + wire.Len(rr)
	}
	return n
}

func (a answer) info() Info {
	return Info{Authentic: a.authentic, TTL: a.ttl, Name: strings.TrimSuffix(a.name, ".")}
}

// lookup answers from memory or asks.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (answer, error) {
	fq, err := question(name)
	if err != nil {
		return answer{}, err
	}
	k := cacheKey{fq, qtype}
	r.mu.Lock()
	a, left, ok := r.cache.get(k, r.now())
	r.mu.Unlock()
	if ok {
		a.ttl = left
		return a, a.err
	}
	a = r.resolve(ctx, fq, qtype, -1)
	r.remember(ctx, k, a)
	return a, a.err
}

func (r *Resolver) remember(ctx context.Context, k cacheKey, a answer) {
	if a.err != nil && ctx.Err() != nil {
		return // says something about the caller's time, not about the name
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache.put(k, a, r.now())
}

// confirm asks the other resolvers whether there is really nothing. What one
// of them finds counts; silence changes nothing.
func (r *Resolver) confirm(ctx context.Context, name string, qtype uint16, no answer) answer {
	if len(r.servers) < 2 || no.confirmed {
		return no
	}
	fq, err := question(name)
	if err != nil {
		return no
	}
	second := r.resolve(ctx, fq, qtype, no.by)
	switch kind.Of(second.err) {
	case kind.Busy:
		return no
	case kind.NotFound:
		second = no
		second.confirmed = true
	}
	r.remember(ctx, cacheKey{fq, qtype}, second)
	return second
}

// special are characters the library writes with a backslash in names.
const special = `.'@;()"\`

// question brings a name into the form of the cache and of the wire: lower
// case, escaped, with the final dot. Names of SPF and DKIM may have any
// printable character but a backslash.
func question(name string) (string, error) {
	bad := kind.Errorf(kind.Invalid, "dns %.80q: not a name", name)
	name = strings.TrimSuffix(name, ".")
	if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
		d, err := mail.NormalizeDomain(name)
		if err != nil {
			return "", bad
		}
		name = d
	}
	if len(name) > 253 || strings.HasPrefix(name, "[") || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
		return "", bad
	}
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c <= ' ' || c >= 0x7f || c == '\\':
			return "", bad
		case c != '.' && strings.IndexByte(special, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= 'A' && c <= 'Z':
			b.WriteByte(c + 'a' - 'A')
		default:
			b.WriteByte(c)
		}
	}
	if _, ok := wire.IsDomainName(b.String()); !ok || name == "" {
		return "", bad
	}
	return b.String() + ".", nil
}

// host is a name out of an answer that has to be one of a host.
func host(name string) (string, bool) {
	fq, err := question(name)
	return strings.TrimSuffix(fq, "."), err == nil
}

var (
	errNoName = errors.New("no such name")
	errNoData = errors.New("the name has no such record")
)

// resolve asks, and asks on where the resolver left an alias open.
func (r *Resolver) resolve(ctx context.Context, name string, qtype uint16, skip int) answer {
	a := answer{name: name, authentic: true, ttl: maxTTL}
	for range maxAliases {
		m, by, err := r.exchange(ctx, a.name, qtype, skip)
		if err != nil {
			return answer{name: name, err: err, ttl: failureTTL}
		}
		a.by = by
		if done := a.read(m, qtype); done {
			return a
		}
	}
	a.fail(kind.Invalid, qtype, fmt.Errorf("more than %d aliases", maxAliases))
	return a
}

// read takes from m what belongs to the question. It returns false where m
// ends in an alias whose target has to be asked for.
func (a *answer) read(m *wire.Msg, qtype uint16) (done bool) {
	a.authentic = a.authentic && m.AuthenticatedData
	asked := a.name
	if err := a.follow(m.Answer); err != nil {
		a.fail(kind.Invalid, qtype, err)
		return true
	}
	size := 0
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Rrtype != qtype || h.Class != wire.ClassINET || !strings.EqualFold(h.Name, a.name) {
			continue
		}
		if size += wire.Len(rr); len(a.records) == maxRecords || size > maxBytes {
			break
		}
		a.records = append(a.records, rr)
		a.until(h.Ttl, maxTTL)
	}
	switch {
	case len(a.records) > 0:
	case m.Rcode == wire.RcodeNameError:
		a.missing(m, qtype, errNoName)
	case a.name != asked && !hasSOA(m):
		return false
	default:
		a.missing(m, qtype, errNoData)
	}
	return true
}

// follow goes along the aliases of a section (RFC 1034 section 3.6.2).
func (a *answer) follow(section []wire.RR) error {
	for n := 0; ; n++ {
		var next *wire.CNAME
		for _, rr := range section {
			if c, ok := rr.(*wire.CNAME); ok && c.Hdr.Class == wire.ClassINET && strings.EqualFold(c.Hdr.Name, a.name) {
				next = c
				break
			}
		}
		if next == nil {
			return nil
		}
		if n == maxAliases {
			return fmt.Errorf("more than %d aliases, or a circle of them", maxAliases)
		}
		a.name = strings.ToLower(wire.Fqdn(next.Target))
		a.until(next.Hdr.Ttl, maxTTL)
	}
}

// until shortens the life of the answer.
func (a *answer) until(ttl uint32, limit time.Duration) {
	a.ttl = min(a.ttl, limit, time.Duration(ttl)*time.Second)
}

func (a *answer) fail(k kind.Kind, qtype uint16, err error) {
	a.records = nil
	a.ttl = min(a.ttl, maxNegative)
	a.err = kind.Errorf(k, "%s: %w", label(a.name, qtype), err)
}

// missing is NotFound for as long as the zone says (RFC 2308 section 5).
func (a *answer) missing(m *wire.Msg, qtype uint16, err error) {
	a.fail(kind.NotFound, qtype, err)
	for _, rr := range m.Ns {
		if soa, ok := rr.(*wire.SOA); ok {
			a.until(min(soa.Hdr.Ttl, soa.Minttl), maxNegative)
			return
		}
	}
	a.ttl = 0
}

func hasSOA(m *wire.Msg) bool {
	for _, rr := range m.Ns {
		if _, ok := rr.(*wire.SOA); ok {
			return true
		}
	}
	return false
}

// Answers asks each resolver for a name, past what is remembered, and fails where
// none of them gives an answer; that there is no such name is one.
func (r *Resolver) Answers(ctx context.Context, name string) (text string, err error) {
	fq, err := question(name)
	if err != nil {
		fq = "."
	}
	var last error
	var silent []string
	for _, s := range r.servers {
		if _, err := r.askOne(ctx, s, fq, wire.TypeA); err != nil {
			last, silent = err, append(silent, s.addr)
		}
	}
	if len(silent) == len(r.servers) {
		return "", busy(fq, wire.TypeA, last)
	}
	if len(silent) > 0 {
		return "no answer from " + strings.Join(silent, " "), nil
	}
	return "", nil
}
