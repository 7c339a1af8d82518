package guard

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// attachments applies the organizations' rules for kinds of attachments.
func (c *content) attachments(context.Context) mail.Verdict {
	if !slices.ContainsFunc(c.policies, func(p settings.Policy) bool { return len(p.Attachments) > 0 }) {
		return pass()
	}
	parts, whole := message.Parts(c.s.Body)
	what := ""
	action := together(c.policies, func(p settings.Policy) string {
		worst := ""
		for _, part := range parts {
			name, a := forbidden(p.Attachments, part, c.s.Body)
			if a != "" && worst != actionReject {
				worst, what = a, name
			}
		}
		return worst
	})
	switch {
	case action == actionReject:
		return c.g.said("attachment", refuse("5.7.1", "Attachments of this kind are not taken", "attachment: "+what))
	case action == actionQuarantine:
		c.hold("attachment", "attachment: "+what)
	case !whole:
		c.hold("attachment", "attachment: the structure of the message hides parts")
	}
	return pass()
}

// forbidden is the worst that rules say of a part, and what they mean.
func forbidden(rules []settings.AttachmentRule, part message.Part, msg []byte) (what, action string) {
	var magic []string // looked for once, and only where an extension is asked for
	looked := false
	for _, r := range rules {
		if r.Action != actionReject && action != "" {
			continue
		}
		ext := strings.ToLower(strings.TrimPrefix(r.Extension, "."))
		if ext != "" && !looked {
			magic, looked = extensionsOf(start(part, msg)), true
		}
		switch {
		case ext != "" && slices.ContainsFunc(part.Names, func(n string) bool { return extension(n) == ext }),
			ext != "" && slices.Contains(magic, ext),
			r.Type != "" && typeIs(part.Type, strings.ToLower(r.Type)):
			what, action = r.Extension+r.Type, r.Action
		}
	}
	return what, action
}

// extension is that of a file name, as Windows opens it: it drops blanks and
// dots at the end and what follows a colon.
func extension(name string) string {
	name, _, _ = strings.Cut(name, ":")
	name = strings.TrimRight(name, ". \t\u00a0")
	_, ext, ok := cutLast(name, ".")
	if !ok {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(ext))
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// typeIs compares media types; want may end in /*.
func typeIs(have, want string) bool {
	if main, ok := strings.CutSuffix(want, "/*"); ok {
		have, _, _ = strings.Cut(have, "/")
		return have == main
	}
	return have == want
}

// sniffed is how much of a part is decoded to see what it is.
const sniffed = 512

// start is the decoded beginning of a part. Text that is written as text is
// not looked at: it may begin with anything.
func start(p message.Part, msg []byte) []byte {
	b := msg[p.Start:p.End]
	switch p.Encoding {
	case "binary":
		return b[:min(len(b), sniffed)]
	case "base64":
	default:
		return nil
	}
	var clean []byte
	for _, x := range b[:min(len(b), 4*sniffed)] {
		if x == '=' {
			break
		}
		if x > ' ' {
			clean = append(clean, x)
		}
	}
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(clean)))
	n, _ := base64.RawStdEncoding.Decode(out, clean) // what comes before an error counts
	return out[:min(n, sniffed)]
}

// extensionsOf are the extensions that content may not hide behind another
// name: programs and archives that no common document is one of.
func extensionsOf(b []byte) []string {
	for magic, ext := range map[string][]string{
		"MZ":                            {"exe", "dll", "scr", "com", "cpl", "pif", "sys", "ocx"},
		"\x7fELF":                       {"elf", "so", "bin"},
		"Rar!\x1a\x07":                  {"rar"},
		"7z\xbc\xaf\x27\x1c":            {"7z"},
		"MSCF":                          {"cab"},
		"L\x00\x00\x00\x01\x14\x02\x00": {"lnk"},
	} {
		if bytes.HasPrefix(b, []byte(magic)) {
			return ext
		}
	}
	return nil
}
