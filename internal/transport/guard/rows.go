package guard

import (
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
)

// Keys of the lists in the agreed state; what follows is the value of the entry.
const (
	AllowPrefix = "transport/allow/"
	BlockPrefix = "transport/block/"
)

// Entry lets in or keeps out (transport/allow/<value>, transport/block/<value>).
// The value is a network (192.0.2.0/24), an address (192.0.2.1), a domain of
// envelope senders or an envelope sender.
//
// A network that is allowed is not counted, not looked up in block lists, not
// greylisted and not scanned for spam, and its word counts more than DMARC. An
// allowed sender counts from where it is proven (SPF, DKIM) and keeps its mail
// from being called spam.
type Entry struct {
	Value   string    `json:"value"`
	Why     string    `json:"why,omitempty"`
	By      string    `json:"by,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// NormalizeValue gives the one spelling of a value that an Entry and its key
// have. Errors are of kind Invalid.
func NormalizeValue(s string) (string, error) {
	s = strings.TrimSpace(s)
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Addr().Is4In6() {
			return "", kind.Errorf(kind.Invalid, "value %.60q: write it as an IPv4 network", s)
		}
		return p.Masked().String(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()).String(), nil
	}
	if strings.Contains(strings.TrimPrefix(s, "@"), "@") {
		a, err := mail.ParseAddress(s)
		if err != nil || a.IsLiteral() {
			return "", kind.Errorf(kind.Invalid, "value %.60q: not an address", s)
		}
		return a.Key(), nil
	}
	d, err := mail.NormalizeDomain(strings.TrimPrefix(s, "@"))
	if err != nil || d[0] == '[' || !strings.Contains(d, ".") {
		return "", kind.Errorf(kind.Invalid, "value %.60q: want a network, an address, a domain or a sender", s)
	}
	return d, nil
}

// lists are the values of the allow or the block list, with when they end.
type lists struct {
	nets    map[netip.Prefix]time.Time
	lengths []int // of the networks in nets, to look for
	senders map[string]time.Time
}

func newLists() lists {
	return lists{nets: map[netip.Prefix]time.Time{}, senders: map[string]time.Time{}}
}

func (l *lists) add(e Entry) {
	if p, err := netip.ParsePrefix(e.Value); err == nil {
		bits := p.Bits()
		if p.Addr().Is6() {
			bits += 1000
		}
		known := false
		for _, n := range l.lengths {
			known = known || n == bits
		}
		if !known {
			l.lengths = append(l.lengths, bits)
		}
		l.nets[p.Masked()] = e.Expires
		return
	}
	l.senders[e.Value] = e.Expires
}

func (l *lists) network(a netip.Addr, now time.Time) bool {
	a = a.Unmap().WithZone("")
	for _, n := range l.lengths {
		if a.Is6() != (n >= 1000) {
			continue
		}
		p, err := a.Prefix(n % 1000)
		if err != nil {
			return false
		}
		if end, ok := l.nets[p]; ok && (end.IsZero() || now.Before(end)) {
			return true
		}
	}
	return false
}

// sender looks for the address, its domain and the domains above.
func (l *lists) sender(a mail.Address, now time.Time) bool {
	if len(l.senders) == 0 || a.IsZero() {
		return false
	}
	valid := func(s string) bool {
		end, ok := l.senders[s]
		return ok && (end.IsZero() || now.Before(end))
	}
	if valid(a.Key()) {
		return true
	}
	for d := a.Domain; d != ""; _, d, _ = strings.Cut(d, ".") {
		if valid(d) {
			return true
		}
	}
	return false
}

// inForce are the allow and block lists as they are now.
type inForce struct {
	revision     int64
	allow, block lists
}

// rows keeps what was decoded last.
type rows struct {
	mu   sync.Mutex // guards the two below
	last *inForce
	at   time.Time
}

// decodeEvery is how often the lists are decoded at most: the agreed state may
// change often without changing them.
const decodeEvery = 200 * time.Millisecond

func (r *rows) now(v *cluster.View) *inForce {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil && (r.last.revision == v.Revision() || now.Sub(r.at) < decodeEvery) {
		return r.last
	}
	f := &inForce{revision: v.Revision(), allow: newLists(), block: newLists()}
	for prefix, l := range map[string]*lists{AllowPrefix: &f.allow, BlockPrefix: &f.block} {
		for _, it := range v.Prefix(prefix) {
			var e Entry
			// One that does not decode is left out: the commands that write them check.
			if json.Unmarshal(it.Value, &e) == nil {
				l.add(e)
			}
		}
	}
	r.last, r.at = f, now
	return f
}

func (g *Guard) inForce() *inForce { return g.rows.now(g.deps.View()) }
