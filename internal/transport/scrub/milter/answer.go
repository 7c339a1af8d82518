package milter

import (
	"strings"

	wire "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

const (
	maxEdits = 100  // what comes behind so many is left out
	maxName  = 76   // octets of the name of a header field
	maxAdded = 4096 // and of its value
)

// verdict tells what the last answer says.
func verdict(a *wire.Action) (f scrub.Finding, err error) {
	switch a.Code {
	case wire.ActAccept, wire.ActContinue:
	case wire.ActDiscard:
		f.Action = mail.ActionDiscard
	case wire.ActReject:
		f.Action = mail.ActionRefuse
	case wire.ActTempFail:
		f.Action = mail.ActionDefer
	case wire.ActReplyCode:
		switch a.SMTPCode / 100 {
		case 4:
			f.Action = mail.ActionDefer
		case 5:
			f.Action = mail.ActionRefuse
		default:
			return f, kind.Errorf(kind.Internal, "answer with reply %d", a.SMTPCode)
		}
		f.Text = scrub.Line(plain(a.SMTPText), 200)
	default:
		return f, kind.Errorf(kind.Internal, "answer %q", byte(a.Code))
	}
	return f, nil
}

// plain is the first line of a reply without its enhanced status (RFC 3463).
func plain(s string) string {
	s, _, _ = strings.Cut(strings.TrimLeft(s, " "), "\n")
	status, rest, _ := strings.Cut(s, " ")
	digits := strings.Split(status, ".")
	if len(digits) != 3 {
		return s
	}
	for _, d := range digits {
		if d == "" || len(d) > 3 || strings.Trim(d, "0123456789") != "" {
			return s
		}
	}
	return rest
}

// modify notes the changes that the filter wants; envelope tells of some to the
// envelope. They are nothing once the message is not to be delivered.
func modify(f *scrub.Finding, edits []wire.ModifyAction, msg []byte) (envelope bool, err error) {
	if f.Action != mail.ActionPass {
		return false, nil
	}
	for i, e := range edits {
		switch e.Code {
		case wire.ActReplBody:
			return envelope, kind.Errorf(kind.Internal, "replaces the body, which is not supported")
		case wire.ActAddRcpt, wire.ActDelRcpt, wire.ActChangeFrom:
			envelope = true
		case wire.ActQuarantine:
			f.Action, f.Text = mail.ActionQuarantine, scrub.Line(e.Reason, 200)
		case wire.ActAddHeader, wire.ActInsertHeader, wire.ActChangeHeader:
			if i < maxEdits && good(e.HeaderName) {
				field(f, e, msg)
			}
		}
	}
	return envelope, nil
}

// field notes a header field to add, to change or, without a value, to remove.
// To change one that is not there is to add it; one that says spam is the
// filter's word for that.
func field(f *scrub.Finding, e wire.ModifyAction, msg []byte) {
	h := scrub.HeaderEdit{Name: e.HeaderName, Value: scrub.Value(e.HeaderValue, maxAdded), Order: -1}
	f.Spam = f.Spam || strings.EqualFold(h.Name, "X-Spam-Flag") && strings.EqualFold(h.Value, "YES")
	switch n := max(e.HeaderIndex, 1); {
	case e.Code == wire.ActChangeHeader && int64(n) <= int64(len(message.Named(msg, h.Name))):
		h.Order = int(n)
		f.Remove = append(f.Remove, h)
		return
	case e.Code == wire.ActChangeHeader && h.Value == "":
		return
	case e.Code == wire.ActInsertHeader:
		h.Order = int(min(e.HeaderIndex, message.MaxHeaderLines))
	}
	f.Add = append(f.Add, h)
}

// good tells what is named like a header field (RFC 5322 section 2.2).
func good(name string) bool {
	return name != "" && len(name) <= maxName && strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) < 0
}
