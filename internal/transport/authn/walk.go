package authn

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// maxWalk is how many names one walk asks at most (RFC 9989 section 4.10).
const maxWalk = 8

// site is what one name of a walk had.
type site struct {
	name   string
	found  bool // exactly one policy record, good or bad
	record DMARCRecord
	err    error // why the record that was found can not be used
}

// names are those a walk from domain asks, in order (RFC 9989 section 4.10,
// steps 1, 3, 4 and 7).
func names(domain string) []string {
	out := append(make([]string, 0, maxWalk), domain)
	labels := strings.Split(domain, ".")
	rest := labels[1:]
	if n := len(rest) - (maxWalk - 1); n > 0 {
		rest = rest[n:]
	}
	for ; len(rest) > 0; rest = rest[1:] {
		out = append(out, strings.Join(rest, "."))
	}
	return out
}

// classify reads the answer for one name: texts that are no policy records are
// put aside, and so are all if more than one remains (steps 2 and 6).
func classify(name string, txts []string) site {
	s := site{name: name}
	record := ""
	for _, t := range txts {
		if !isDMARC(t) {
			continue
		}
		if s.found {
			return site{name: name}
		}
		s.found, record = true, t
	}
	if s.found {
		s.record, s.err = ParseDMARC(record)
	}
	return s
}

// ends reports whether a walk stops at this name.
func (s site) ends() bool { return s.found && s.err == nil && s.record.PublicSuffix != 'u' }

// organizational picks the organizational domain out of the sites of a walk,
// longest name first (RFC 9989 section 4.10.2).
func organizational(start string, sites []site) string {
	org := start
	for _, s := range sites {
		switch {
		case !s.found || s.err != nil:
		case s.record.PublicSuffix == 'n':
			return s.name
		case s.record.PublicSuffix == 'y' && s.name != start:
			return below(start, s.name)
		default:
			org = s.name // the last one has the fewest labels
		}
	}
	return org
}

// below is the name on the way from start to ancestor that is one label
// longer than ancestor.
func below(start, ancestor string) string {
	rest := strings.TrimSuffix(strings.TrimSuffix(start, ancestor), ".")
	return rest[strings.LastIndexByte(rest, '.')+1:] + "." + ancestor
}

// governing picks the site whose record applies to the author domain start:
// its own, that of its organizational domain, that of its public suffix.
func governing(start, org string, sites []site) (site, bool) {
	for _, want := range []func(site) bool{
		func(s site) bool { return s.name == start },
		func(s site) bool { return s.name == org },
		func(s site) bool { return s.err == nil && s.record.PublicSuffix == 'y' },
	} {
		for _, s := range sites {
			if s.found && want(s) {
				return s, true
			}
		}
	}
	return site{}, false
}

// walker asks for policy records and remembers the answers for one message.
type walker struct {
	r    Resolver
	seen map[string]site
}

func (w *walker) ask(ctx context.Context, name string) (site, error) {
	if s, ok := w.seen[name]; ok {
		return s, nil
	}
	if len("_dmarc.")+len(name) > maxName {
		return site{name: name}, nil // can not have a record
	}
	txts, err := lookupTXT(ctx, w.r, "_dmarc."+name)
	if err != nil {
		return site{}, kind.Errorf(kind.Busy, "look up _dmarc.%s: %w", name, err)
	}
	s := classify(name, txts)
	w.seen[name] = s
	return s, nil
}

// walk goes up the tree from domain. A fault ends it, with the sites so far:
// no boundary is guessed.
func (w *walker) walk(ctx context.Context, domain string) ([]site, error) {
	var sites []site
	for _, name := range names(domain) {
		s, err := w.ask(ctx, name)
		if err != nil {
			return sites, err
		}
		sites = append(sites, s)
		if s.ends() {
			break
		}
	}
	return sites, nil
}
