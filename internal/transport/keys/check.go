package keys

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"blitiri.com.ar/go/spf"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/authn"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// What was found of a record.
const (
	StatusPresent   = "present"
	StatusMissing   = "missing"
	StatusDifferent = "different"
	StatusUnknown   = "unknown" // nobody answered
	StatusUnchecked = "not checked"
)

// Row is a record and what DNS has in its place.
type Row struct {
	Record
	Status string `json:"status" col:"STATUS"`
	Found  string `json:"found,omitempty" col:"-"`
	Note   string `json:"note,omitempty" col:"NOTE"`
}

// Resolver is what records are asked of; *dns.Resolver is one.
type Resolver interface {
	TXT
	TLSA(ctx context.Context, name string) ([]dns.TLSA, dns.Info, error)
}

// Checker compares records with DNS. It is safe for concurrent use.
type Checker struct {
	Resolver Resolver
	Std      spf.DNSResolver // dns.Resolver.Std()
	// STS finds MTA-STS policies: *tlspolicy.Policies.
	STS interface {
		For(ctx context.Context, domain string) (tlspolicy.STS, error)
	}
	// SRV looks services up, as net.Resolver.LookupSRV does; nil: they are not
	// checked.
	SRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// checkWait bounds the comparison of one record.
const checkWait = 20 * time.Second

// Check compares the records of a domain with what DNS says, in the order of
// Expect.
func (c Checker) Check(ctx context.Context, f Facts) []Row {
	records := Expect(f)
	rows := make([]Row, len(records))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, r := range records {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, checkWait)
			defer cancel()
			rows[i] = c.one(ctx, f, r)
		})
	}
	wg.Wait()
	return rows
}

func (c Checker) one(ctx context.Context, f Facts, r Record) Row {
	row := Row{Record: r}
	switch r.topic {
	case topicMX:
		c.mx(ctx, f, &row)
	case topicSPF:
		c.spf(ctx, f, &row)
	case topicDKIM:
		c.dkim(ctx, &row)
	case topicDMARC:
		c.dmarc(ctx, &row)
	case topicSTS:
		c.text(ctx, &row, "v=STSv1", "id=")
	case topicTLSRPT:
		c.text(ctx, &row, "v=TLSRPTv1", "rua=")
	case topicPolicy:
		c.policy(ctx, f, &row)
	case topicTLSA:
		c.tlsa(ctx, &row)
	case topicSRV:
		c.srv(ctx, &row)
	}
	row.Found = clip(row.Found)
	return row
}

// clip bounds what strangers wrote.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return '?'
		}
		return r
	}, s), "?")
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "") + "..."
	}
	return s
}

// set writes what was found.
func (r *Row) set(status, found, note string, args ...any) {
	r.Status, r.Found, r.Note = status, found, fmt.Sprintf(note, args...)
}

// failed writes an answer that is none.
func (r *Row) failed(err error) {
	var d *net.DNSError
	if kind.Is(err, kind.NotFound) || errors.As(err, &d) && d.IsNotFound {
		r.set(StatusMissing, "", "")
		return
	}
	r.set(StatusUnknown, "", "%v", err)
}

func (c Checker) mx(ctx context.Context, f Facts, row *Row) {
	all, err := c.Std.LookupMX(ctx, f.Domain)
	if err != nil && len(all) == 0 {
		row.failed(err)
		return
	}
	var found []string
	has, ours := false, false
	for _, m := range all {
		host := strings.ToLower(strings.TrimSuffix(m.Host, "."))
		found = append(found, fmt.Sprintf("%d %s.", m.Pref, host))
		has = has || host == row.host
		ours = ours || slices.Contains(f.Hosts, host)
	}
	switch {
	case has:
		row.set(StatusPresent, strings.Join(found, "\n"), "")
	case len(found) == 0:
		row.set(StatusMissing, "", "")
	case ours:
		row.set(StatusMissing, strings.Join(found, "\n"), "other servers of the group are named")
	default:
		row.set(StatusDifferent, strings.Join(found, "\n"), "mail for the domain goes elsewhere")
	}
}

// texts asks for the TXT records that begin with a version; false: the row has
// its answer.
func (c Checker) texts(ctx context.Context, row *Row, version string) (string, bool) {
	all, _, err := c.Resolver.TXT(ctx, row.Name)
	if err != nil {
		row.failed(err)
		return "", false
	}
	var mine []string
	for _, s := range all {
		// RFC 7208 section 4.5, RFC 8461 section 3.1: the version is a whole word.
		if rest, ok := strings.CutPrefix(strings.ToLower(s), strings.ToLower(version)); ok && (rest == "" || strings.ContainsRune(" ;\t", rune(rest[0]))) {
			mine = append(mine, s)
		}
	}
	switch len(mine) {
	case 0:
		row.set(StatusMissing, "", "")
		return "", false
	case 1:
		return mine[0], true
	}
	row.set(StatusDifferent, strings.Join(mine, "\n"), "there are %d of them, so that none counts", len(mine))
	return "", false
}

func (c Checker) text(ctx context.Context, row *Row, version, tag string) {
	s, ok := c.texts(ctx, row, version)
	switch {
	case !ok:
	case !strings.Contains(strings.ReplaceAll(strings.ToLower(s), " ", ""), tag):
		row.set(StatusDifferent, s, "it has no %s", strings.TrimSuffix(tag, "="))
	default:
		row.set(StatusPresent, s, "")
	}
}

func (c Checker) spf(ctx context.Context, f Facts, row *Row) {
	s, ok := c.texts(ctx, row, "v=spf1")
	if !ok {
		return
	}
	sources, err := c.sources(ctx, f)
	if err != nil {
		row.set(StatusUnknown, s, "addresses of the hosts: %v", err)
		return
	}
	for _, a := range sources {
		res, err := spf.CheckHostWithSender(a.AsSlice(), f.Domain, "postmaster@"+f.Domain, spf.WithContext(ctx), spf.WithResolver(c.Std))
		switch res {
		case spf.Pass:
		case spf.TempError:
			row.set(StatusUnknown, s, "for %s: %v", a, err)
			return
		default:
			row.set(StatusDifferent, s, "it does not let %s send (%s)", a, res)
			return
		}
	}
	row.set(StatusPresent, s, "")
}

// sources are the addresses that mail leaves from.
func (c Checker) sources(ctx context.Context, f Facts) ([]netip.Addr, error) {
	if len(f.Sources) > 0 {
		return f.Sources, nil
	}
	var out []netip.Addr
	for _, h := range f.Hosts {
		all, err := c.Std.LookupIPAddr(ctx, h)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}

func (c Checker) dkim(ctx context.Context, row *Row) {
	if row.key.Selector == "" {
		row.set(StatusMissing, "", "the domain has no key")
		return
	}
	all, _, err := c.Resolver.TXT(ctx, row.Name)
	if err != nil {
		row.failed(err)
	} else if i := slices.IndexFunc(all, func(s string) bool { return sameKey(s, row.key.Public) }); i >= 0 {
		row.set(StatusPresent, all[i], "")
	} else if len(all) == 0 {
		row.set(StatusMissing, "", "")
	} else {
		row.set(StatusDifferent, strings.Join(all, "\n"), "it is the record of another key")
	}
	if row.Status != StatusPresent && row.Status != StatusUnknown && row.key.State == settings.DKIMSigning {
		row.Note = strings.TrimPrefix(row.Note+"; signatures of this key fail everywhere", "; ")
	}
}

func (c Checker) dmarc(ctx context.Context, row *Row) {
	s, ok := c.texts(ctx, row, "v=DMARC1")
	if !ok {
		return
	}
	rec, err := authn.ParseDMARC(s)
	switch {
	case err != nil:
		row.set(StatusDifferent, s, "%v", err)
	case rec.Policy == "none":
		row.set(StatusPresent, s, "p=none asks nobody to refuse forged mail")
	default:
		row.set(StatusPresent, s, "")
	}
}

func (c Checker) policy(ctx context.Context, f Facts, row *Row) {
	p, err := c.STS.For(ctx, f.Domain)
	switch {
	case p.Mode == "" && err != nil:
		row.set(StatusUnknown, "", "%v", err)
		return
	case p.Mode == "":
		row.set(StatusMissing, "", "")
		return
	}
	found := fmt.Sprintf("mode: %s\nmx: %s", p.Mode, strings.Join(p.MX, "\nmx: "))
	for _, h := range f.Hosts {
		if !p.Allows(h) {
			row.set(StatusDifferent, found, "it does not name %s", h)
			return
		}
	}
	row.set(StatusPresent, found, "")
	if p.Mode != tlspolicy.ModeEnforce {
		row.Note = "mode " + string(p.Mode) + " protects nothing"
	}
}

func (c Checker) tlsa(ctx context.Context, row *Row) {
	all, info, err := c.Resolver.TLSA(ctx, row.Name)
	if err != nil {
		row.failed(err)
		return
	}
	var found []string
	for _, a := range all {
		found = append(found, fmt.Sprintf("%d %d %d %s", a.Usage, a.Selector, a.Matching, hex.EncodeToString(a.Data)))
	}
	switch {
	case len(found) == 0:
		row.set(StatusMissing, "", "")
	case slices.Contains(found, row.Value):
		row.set(StatusPresent, strings.Join(found, "\n"), "")
	default:
		row.set(StatusDifferent, strings.Join(found, "\n"), "none is of the present key; hosts that follow DANE may refuse to send here")
	}
	if row.Status != StatusMissing && !info.Authentic {
		row.Note = strings.TrimPrefix(row.Note+"; not validated by DNSSEC here", "; ")
	}
}

func (c Checker) srv(ctx context.Context, row *Row) {
	if c.SRV == nil {
		row.set(StatusUnchecked, "", "")
		return
	}
	_, all, err := c.SRV(ctx, "", "", row.Name)
	if err != nil && len(all) == 0 {
		row.failed(err)
		return
	}
	var found []string
	want := strings.SplitN(row.Value, " ", 3)[2] // priority and weight are the owner's choice
	has := false
	for _, s := range all {
		v := fmt.Sprintf("%d %s.", s.Port, strings.ToLower(strings.TrimSuffix(s.Target, ".")))
		found = append(found, fmt.Sprintf("%d %d %s", s.Priority, s.Weight, v))
		has = has || v == want
	}
	if has {
		row.set(StatusPresent, strings.Join(found, "\n"), "")
	} else {
		row.set(StatusDifferent, strings.Join(found, "\n"), "it leads elsewhere")
	}
}
