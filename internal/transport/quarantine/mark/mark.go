// Package mark reads and writes the header field that stands in front of a
// message in quarantine.
package mark

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

const (
	// Name of the field.
	Name = "X-Postern-Quarantine"
	// Max bounds the field, in bytes.
	Max = 512 << 10
)

// Item is a message to be kept aside for one organization.
type Item struct {
	ID           mail.TraceID       `json:"id"` // of the entry: the message's, but where one message has several
	Trace        mail.TraceID       `json:"trace"`
	Organization org.OrganizationID `json:"organization"`
	Reason       string             `json:"reason"`
	Malware      bool               `json:"malware,omitempty"`
	Score        float64            `json:"score,omitempty"`
	Envelope     mail.Envelope      `json:"envelope"` // with the recipients of the organization only
	Origin       mail.Origin        `json:"origin"`
	Identity     []byte             `json:"identity"`
	Received     time.Time          `json:"received"`
}

// Wrap is the message with the field in front.
func Wrap(it Item, body []byte) ([]byte, error) {
	b, err := json.Marshal(it)
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "quarantine %s: %w", it.ID, err)
	}
	text := base64.StdEncoding.EncodeToString(b)
	var words strings.Builder
	for i := 0; i < len(text); i += 70 {
		if i > 0 {
			words.WriteByte(' ')
		}
		words.WriteString(text[i:min(i+70, len(text))])
	}
	// The semicolon ends it whatever the message begins with.
	field, err := message.Field(Name, words.String()+";")
	if err != nil {
		return nil, err
	}
	if len(field) > Max {
		return nil, kind.Errorf(kind.Invalid, "quarantine %s: the envelope is too large", it.ID)
	}
	return append(field, body...), nil
}

// Unwrap reads our field from the beginning of a message that was kept; rest
// is where the message itself begins. Corrupt where there is none.
func Unwrap(b []byte) (it Item, rest int, err error) {
	bad := func(why string) (Item, int, error) {
		return Item{}, 0, kind.Errorf(kind.Corrupt, "read quarantined message: %s", why)
	}
	if len(b) < len(Name) || !bytes.EqualFold(b[:len(Name)], []byte(Name)) {
		return bad("it does not begin with our field")
	}
	// Only the field is looked at: the header behind it is a stranger's.
	ended := false
	for !ended {
		n := bytes.IndexByte(b[rest:], '\n')
		if n < 0 || rest > Max {
			return bad("our field does not end")
		}
		ended = bytes.HasSuffix(bytes.TrimRight(b[rest:rest+n], "\r"), []byte(";"))
		rest += n + 1
	}
	_, value, ok := bytes.Cut(b[:rest], []byte(":"))
	if !ok {
		return bad("our field has no value")
	}
	text := bytes.TrimSuffix(bytes.Join(bytes.Fields(value), nil), []byte(";"))
	plain := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(plain, text)
	if err != nil {
		return bad("our field is not readable")
	}
	if err := json.Unmarshal(plain[:n], &it); err != nil {
		return bad(err.Error())
	}
	if len(it.Identity) != 32 || len(it.Envelope.Recipients) == 0 {
		return bad("our field is not complete")
	}
	return it, rest, nil
}
