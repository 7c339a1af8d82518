package report

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/authn"
)

// Limits of records.
const (
	maxReaders = 10
	maxRecord  = 4096 // bytes
	maxURI     = 1024 // bytes
)

// reader is somebody who wants a report.
type reader struct {
	address string // mailbox, or address of the web
	web     bool
	limit   int64 // bytes it takes, 0 for any
}

// host is the domain that has to agree.
func (t reader) host() string { return t.address[strings.LastIndexByte(t.address, '@')+1:] }

// texts asks for the TXT records of a name. None is no error.
func (r *Reporter) texts(ctx context.Context, name string) ([]string, error) {
	if len(name) > 253 {
		return nil, nil
	}
	all, err := r.d.Resolver.LookupTXT(ctx, name)
	var d *net.DNSError
	switch {
	case err == nil:
		return all, nil
	case errors.As(err, &d) && d.IsNotFound:
		return nil, nil
	}
	return nil, kind.Errorf(kind.Busy, "look up %s: %w", name, err)
}

// readersDMARC finds who wants reports about a policy domain: those its record
// names now. Others than the domain's own have to agree (RFC 9990 section 4).
func (r *Reporter) readersDMARC(ctx context.Context, domain string) ([]reader, error) {
	all, err := r.texts(ctx, "_dmarc."+domain)
	if err != nil {
		return nil, err
	}
	asked, ok := readDMARC(all)
	if !ok {
		return nil, nil
	}
	var out []reader
	for _, t := range asked {
		ts, err := r.agreed(ctx, domain, t)
		if err != nil {
			return nil, err
		}
		for _, t := range ts {
			if !slices.ContainsFunc(out, func(o reader) bool { return o.address == t.address }) && len(out) < maxReaders {
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// agreed gives a reader that may have reports about a domain, or those it names
// itself instead; none if it does not want them.
func (r *Reporter) agreed(ctx context.Context, domain string, t reader) ([]reader, error) {
	host := t.host()
	if host == domain {
		return []reader{t}, nil
	}
	one, err := authn.Organizational(ctx, r.d.Resolver, domain)
	if err != nil {
		return nil, err
	}
	other, err := authn.Organizational(ctx, r.d.Resolver, host)
	if kind.Is(err, kind.Invalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if one == other {
		return []reader{t}, nil
	}
	all, err := r.texts(ctx, domain+"._report._dmarc."+host)
	if err != nil {
		return nil, err
	}
	ok := false
	var instead []reader
	for _, txt := range all {
		if _, err := authn.ParseDMARC(txt); err != nil {
			continue
		}
		ok = true
		instead = append(instead, reportURIs(txt)...)
	}
	switch {
	case !ok || slices.ContainsFunc(instead, func(i reader) bool { return i.host() != host }):
		return nil, nil
	case len(instead) > 0:
		return instead[:min(len(instead), maxReaders)], nil
	}
	return []reader{t}, nil
}

// readDMARC reads who wants reports out of the texts of a _dmarc name. False:
// there is no record that counts.
func readDMARC(texts []string) ([]reader, bool) {
	var record string
	n := 0
	for _, t := range texts {
		if _, err := authn.ParseDMARC(t); !kind.Is(err, kind.NotFound) {
			record = t
			n++
		}
	}
	if n != 1 {
		return nil, false
	}
	if _, err := authn.ParseDMARC(record); err != nil {
		return nil, false
	}
	return reportURIs(record), true
}

// reportURIs reads the mailboxes of a record's rua tag. A size limit behind an
// exclamation mark (RFC 7489 section 6.2) still holds.
func reportURIs(record string) []reader {
	var out []reader
	for uri := range strings.SplitSeq(tag(record, "rua"), ",") {
		uri, size, _ := strings.Cut(strings.TrimSpace(uri), "!")
		limit, ok := sizeOf(size)
		t, err := readerOf(uri)
		if err != nil || t.web || !ok {
			continue
		}
		t.limit = limit
		if out = append(out, t); len(out) == maxReaders {
			break
		}
	}
	return out
}

// tag finds a tag of a record; the first one counts.
func tag(record, name string) string {
	for field := range strings.SplitSeq(record[:min(len(record), maxRecord)], ";") {
		k, v, ok := strings.Cut(field, "=")
		if ok && strings.EqualFold(strings.TrimSpace(k), name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// sizeOf reads a number of bytes with an optional unit; empty is no limit.
func sizeOf(s string) (int64, bool) {
	if s = strings.ToLower(strings.TrimSpace(s)); s == "" {
		return 0, true
	}
	shift := strings.IndexByte("kmgt", s[len(s)-1])
	if shift >= 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 22)
	if shift < 0 {
		n, err = strconv.ParseUint(s, 10, 62)
	}
	return int64(n) << (10 * (shift + 1)), err == nil
}

// readersTLS finds who wants TLS reports about a domain (RFC 8460 section 3).
func (r *Reporter) readersTLS(ctx context.Context, domain string) ([]reader, error) {
	all, err := r.texts(ctx, "_smtp._tls."+domain)
	if err != nil {
		return nil, err
	}
	return readTLS(all), nil
}

// readTLS reads who wants reports out of the texts of a _smtp._tls name.
// Anything but exactly one record means that nobody does.
func readTLS(texts []string) (out []reader) {
	var record string
	n := 0
	for _, t := range texts {
		if first, _, _ := strings.Cut(t, ";"); strings.TrimRight(first, " \t") == "v=TLSRPTv1" {
			record = t
			n++
		}
	}
	if n != 1 {
		return nil
	}
	for uri := range strings.SplitSeq(tag(record, "rua"), ",") {
		if t, err := readerOf(strings.TrimSpace(uri)); err == nil && len(out) < maxReaders {
			out = append(out, t)
		}
	}
	return out
}

// readerOf reads an address for reports: a mailbox (RFC 6068, of which only the
// address counts) or a page (https).
func readerOf(uri string) (reader, error) {
	bad := kind.Errorf(kind.Invalid, "report address %.80q: want mailto:address or https://host/path", uri)
	if len(uri) > maxURI {
		return reader{}, bad
	}
	u, err := url.Parse(uri)
	if err != nil {
		return reader{}, bad
	}
	switch u.Scheme { // in lower case
	case "mailto":
		s, err := url.PathUnescape(u.Opaque)
		if err != nil {
			return reader{}, bad
		}
		a, err := mail.ParseAddress(s)
		if err != nil || a.IsZero() || a.IsLiteral() || a.NeedsUTF8() {
			return reader{}, bad
		}
		return reader{address: a.String()}, nil
	case "https":
		if u.Hostname() == "" || u.User != nil {
			return reader{}, bad
		}
		u.Fragment = ""
		return reader{address: u.String(), web: true}, nil
	}
	return reader{}, bad
}
