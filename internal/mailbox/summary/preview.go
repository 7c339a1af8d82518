package summary

import (
	"html"
	"strings"
	"unicode"

	"github.com/postern-mail/postern/internal/mail"
)

const (
	previewRunes = 256
	previewBytes = 16 << 10 // of the encoded part that are looked at
)

// preview is the beginning of the message's text on one line (RFC 8970).
func preview(root *mail.Part, body []byte) string {
	n := firstText(root, "plain")
	if n == nil {
		n = firstText(root, "html")
	}
	if n == nil {
		return ""
	}
	s := Text(n, body, previewBytes)
	if n.Subtype == "html" {
		s = html.UnescapeString(StripTags(s))
	}
	var b strings.Builder
	count, blank := 0, false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			blank = count > 0
			continue
		case !unicode.IsGraphic(r):
			continue
		}
		if blank {
			b.WriteByte(' ')
			count++
			blank = false
		}
		if count >= previewRunes {
			break
		}
		b.WriteRune(r)
		count++
	}
	return strings.TrimSpace(b.String())
}

// firstText finds the first text part of a subtype that is not an attachment.
// Messages inside the message do not count.
func firstText(n *mail.Part, sub string) *mail.Part {
	if n.Type == "text" && n.Subtype == sub && n.Disposition != "attachment" {
		return n
	}
	for _, c := range n.Children {
		if t := firstText(c, sub); t != nil {
			return t
		}
	}
	return nil
}

// StripTags takes the tags out of HTML, and what is in style and script
// elements. It is for previews and search, not for showing.
func StripTags(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		b.WriteByte(' ')
		s = s[i:]
		end := ">"
		switch {
		case strings.HasPrefix(s, "<!--"):
			end = "-->"
		case foldPrefix(s, "<style"):
			end = "</style"
		case foldPrefix(s, "<script"):
			end = "</script"
		}
		j := foldIndex(s[1:], end)
		if j < 0 {
			return b.String()
		}
		s = s[1+j+len(end):]
		if end[0] == '<' {
			if j = strings.IndexByte(s, '>'); j < 0 {
				return b.String()
			}
			s = s[j+1:]
		}
	}
}

func foldPrefix(s, p string) bool { return len(s) >= len(p) && strings.EqualFold(s[:len(p)], p) }

// foldIndex finds an ASCII string without regard to case.
func foldIndex(s, want string) int {
	at := 0
	for {
		i := strings.IndexByte(s[at:], want[0])
		if i < 0 {
			return -1
		}
		at += i
		if foldPrefix(s[at:], want) {
			return at
		}
		at++
	}
}
