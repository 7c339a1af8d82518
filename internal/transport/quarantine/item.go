package quarantine

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

const (
	// Malware begins the reason of a message that holds some.
	Malware = "malware"
	// Door is where a released message comes from (mail.Origin): scanners and
	// rules let it pass.
	Door = "release"

	headerName = "X-Postern-Quarantine"
	// maxRecipients of one entry; a message with more is kept in several.
	maxRecipients = 500
	// maxMark bounds our header field, in bytes.
	maxMark   = 512 << 10
	maxReason = 500
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

// Split makes the items of a message: one for each organization that has
// recipients of it. Recipients elsewhere belong to the organization that sends.
// What belongs to nobody is left out.
func Split(m queue.Message, rows []queue.RecipientRow, reason string, score float64) []Item {
	byOrg := map[org.OrganizationID][]mail.EnvelopeRecipient{}
	var order []org.OrganizationID
	for _, r := range rows {
		o := r.Organization
		if o == "" {
			o = m.Origin.Organization
		}
		if o == "" {
			continue
		}
		if _, seen := byOrg[o]; !seen {
			order = append(order, o)
		}
		byOrg[o] = append(byOrg[o], mail.EnvelopeRecipient{Address: r.Address, Notify: r.Notify, ORcpt: r.Original})
	}
	var out []Item
	for _, o := range order {
		part := uint16(0)
		for rcpts := range slices.Chunk(byOrg[o], maxRecipients) {
			it := Item{ID: m.ID, Trace: m.ID, Organization: o, Reason: oneLine(reason), Score: score, Malware: strings.HasPrefix(reason, Malware),
				Envelope: m.Envelope, Origin: m.Origin, Identity: m.Identity[:], Received: m.Received}
			it.Envelope.Recipients = rcpts
			binary.BigEndian.PutUint16(it.ID[14:], binary.BigEndian.Uint16(it.ID[14:])^part)
			out = append(out, it)
			part++
		}
	}
	return out
}

// oneLine is a reason in one line.
func oneLine(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "?")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

// wrap is the message with our field in front.
func wrap(it Item, body []byte) ([]byte, error) {
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
	field, err := message.Field(headerName, words.String()+";")
	if err != nil {
		return nil, err
	}
	if len(field) > maxMark {
		return nil, kind.Errorf(kind.Invalid, "quarantine %s: the envelope is too large", it.ID)
	}
	return append(field, body...), nil
}

// unwrap reads our field from the beginning of a message that was kept; rest
// is where the message itself begins. Corrupt where there is none.
func unwrap(b []byte) (it Item, rest int, err error) {
	bad := func(why string) (Item, int, error) {
		return Item{}, 0, kind.Errorf(kind.Corrupt, "read quarantined message: %s", why)
	}
	if len(b) < len(headerName) || !bytes.EqualFold(b[:len(headerName)], []byte(headerName)) {
		return bad("it does not begin with our field")
	}
	// Only the field is looked at: the header behind it is a stranger's.
	ended := false
	for !ended {
		n := bytes.IndexByte(b[rest:], '\n')
		if n < 0 || rest > maxMark {
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

// arrived is when a trace was made, to the millisecond: entries lie under it.
func arrived(id mail.TraceID) time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}
