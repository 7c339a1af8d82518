package queue

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// cut shortens s to at most n bytes of sound UTF-8: CBOR text is nothing else,
// and what a stranger sent may be anything.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// trim cuts what may be cut and leaves what it came from alone.
func (a *Accepted) trim() {
	a.Subject, a.MessageID = cut(a.Subject, maxSubject), cut(a.MessageID, maxMessageID)
	o := &a.Origin
	for _, s := range []*string{&o.Door, &o.Remote, &o.Helo, &o.Account, &o.Connector, &o.TLS, &a.Envelope.Ret} {
		*s = cut(*s, maxName)
	}
	a.Envelope.EnvID = cut(a.Envelope.EnvID, maxAddress)
	a.Envelope.Recipients = slices.Clone(a.Envelope.Recipients)
	for i := range a.Envelope.Recipients {
		r := &a.Envelope.Recipients[i]
		r.ORcpt, r.Notify = cut(r.ORcpt, maxAddress), cut(r.Notify, maxHost)
	}
	a.Also = trimmed(a.Also)
}

func trimmed(cs []Change) []Change {
	cs = slices.Clone(cs)
	for i := range cs {
		cs[i].Rows = slices.Clone(cs[i].Rows)
		for j := range cs[i].Rows {
			r := &cs[i].Rows[j]
			r.Text, r.Host, r.Status = cut(r.Text, maxText), cut(r.Host, maxHost), cut(r.Status, maxStatus)
			r.Dest = cut(r.Dest, maxDest)
			if r.New != nil {
				n := *r.New
				n.ORcpt, n.Dest = cut(n.ORcpt, maxAddress), cut(n.Dest, maxDest)
				r.New = &n
			}
		}
	}
	return cs
}
