package rspamd

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

const (
	maxEdits   = 100
	maxSymbols = 200
	maxAdded   = 4096 // octets of the value of a header to add
)

// answer is what /checkv2 says, as far as it is used. Parts whose shape
// depends on modules stay raw until they are needed.
type answer struct {
	Skipped  bool                       `json:"is_skipped"`
	Score    float64                    `json:"score"`
	Required float64                    `json:"required_score"`
	Action   string                     `json:"action"`
	Symbols  map[string]json.RawMessage `json:"symbols"`
	Messages json.RawMessage            `json:"messages"`
	Milter   json.RawMessage            `json:"milter"`
}

// milter is the part that says what to do with the message.
type milter struct {
	Reject string                     `json:"reject"`
	Add    map[string]json.RawMessage `json:"add_headers"`
	Remove map[string]json.RawMessage `json:"remove_headers"`
}

// read tells what an answer says. Errors are of kind Internal.
func read(body []byte) (scrub.Finding, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return scrub.Finding{}, kind.Errorf(kind.Internal, "rspamd: answer: %s", scrub.Line(err.Error(), 200))
	}
	f := scrub.Finding{Scanner: "rspamd", Score: a.Score, Required: a.Required}
	var m milter
	if object(a.Milter) {
		if err := json.Unmarshal(a.Milter, &m); err != nil {
			return scrub.Finding{}, kind.Errorf(kind.Internal, "rspamd: milter part: %s", scrub.Line(err.Error(), 200))
		}
	}
	switch a.Action {
	case "no action", "greylist": // greylisting is done before the message is sent to us
	case "add header", "rewrite subject":
		f.Spam = true
	case "soft reject":
		f.Action = mail.ActionDefer
	case "reject":
		f.Action, f.Spam = mail.ActionRefuse, true
		switch m.Reject {
		case "quarantine":
			f.Action = mail.ActionQuarantine
		case "discard":
			f.Action = mail.ActionDiscard
		}
	case "quarantine":
		f.Action, f.Spam = mail.ActionQuarantine, true
	case "discard":
		f.Action, f.Spam = mail.ActionDiscard, true
	default: // none at all, too
		return scrub.Finding{}, kind.Errorf(kind.Internal, "rspamd: answer with action %q", scrub.Line(a.Action, 50))
	}
	// Skipped after something was found (GTUBE is) is a finding like any other.
	f.Partial = a.Skipped && f.Action == mail.ActionPass && !f.Spam
	for name := range a.Symbols {
		f.Symbols = append(f.Symbols, scrub.Line(name, 100))
	}
	slices.Sort(f.Symbols)
	f.Symbols = f.Symbols[:min(len(f.Symbols), maxSymbols)]
	if object(a.Messages) {
		var said struct {
			SMTP string `json:"smtp_message"`
		}
		if json.Unmarshal(a.Messages, &said) == nil {
			f.Text = scrub.Line(said.SMTP, 200)
		}
	}
	f.Add, f.Remove = additions(m.Add), removals(m.Remove)
	return f, nil
}

// object tells {...} from the empty list that an empty table may become.
func object(raw json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{"))
}

// list gives the elements of a list, or the thing itself.
func list(raw json.RawMessage) []json.RawMessage {
	var l []json.RawMessage
	if json.Unmarshal(raw, &l) == nil {
		return l
	}
	return []json.RawMessage{raw}
}

// additions reads name: "value" | {value, order} | list of those. What can not
// be read or is no header is left out: the score does not depend on it.
func additions(in map[string]json.RawMessage) []scrub.HeaderEdit {
	var out []scrub.HeaderEdit
	for name, raw := range sorted(in) {
		for _, one := range list(raw) {
			e := struct {
				Value string
				Order *int
			}{}
			if json.Unmarshal(one, &e.Value) != nil && json.Unmarshal(one, &e) != nil || e.Value == "" {
				continue
			}
			order := -1
			if e.Order != nil {
				order = max(*e.Order, -1)
			}
			if out = append(out, scrub.HeaderEdit{Name: name, Value: scrub.Value(e.Value, maxAdded), Order: order}); len(out) == maxEdits {
				return out
			}
		}
	}
	return out
}

// removals reads name: n | list of n.
func removals(in map[string]json.RawMessage) []scrub.HeaderEdit {
	var out []scrub.HeaderEdit
	for name, raw := range sorted(in) {
		for _, one := range list(raw) {
			var n int
			if json.Unmarshal(one, &n) != nil {
				continue
			}
			if out = append(out, scrub.HeaderEdit{Name: name, Order: n}); len(out) == maxEdits {
				return out
			}
		}
	}
	return out
}

// sorted yields what is named like a header field (RFC 5322 section 2.2) in
// the order of the names.
func sorted(in map[string]json.RawMessage) func(func(string, json.RawMessage) bool) {
	names := make([]string, 0, len(in))
	for name := range in {
		if name != "" && len(name) <= 100 && strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) < 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return func(yield func(string, json.RawMessage) bool) {
		for _, name := range names {
			if !yield(name, in[name]) {
				return
			}
		}
	}
}
