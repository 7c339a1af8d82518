package dsn

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Kind is what is told (RFC 3464 section 2.3.3, Action).
type Kind uint8

// The kinds.
const (
	Failed    Kind = iota // returned: there will be no more attempts
	Delayed               // not delivered yet
	Relayed               // given to a server that does not report success
	Delivered             // in the mailbox
)

var actions = [...]string{"failed", "delayed", "relayed", "delivered"}

func (k Kind) String() string { return actions[k] }

// class is the first digit of the status that goes with the kind.
func (k Kind) class() byte { return "5422"[k] }

// Limits of a notification.
const (
	maxHeader     = 64 << 10 // octets of the original header
	maxRecipients = 10_000
	maxTold       = 100 // recipients explained in the text
	maxReply      = 500 // octets of a reply
	maxSubject    = 150 // octets of the original subject
	defaultFull   = 10 << 20
)

// Parent is the message that is reported about.
type Parent struct {
	Trace        mail.TraceID
	Envelope     mail.Envelope // its recipients are not read
	Organization org.OrganizationID
	Received     time.Time
	// Header of the message; empty: taken from Full.
	Header []byte
	// Full is the message; nil where it is not at hand.
	Full []byte
}

// Recipient is one row of the ledger.
type Recipient struct {
	Row uint16
	// Address that is reported. Where the way behind an address of ours is
	// nobody's business (forwards, members of a group), the address the sender
	// wrote.
	Address string
	Notify  string // of RCPT, as in mail.EnvelopeRecipient
	ORcpt   string // type;address, decoded
	Status  string // enhanced status code (RFC 3463); empty: x.0.0
	Code    int    // of the reply, 0 for none
	Text    string // reply of Host or, without Code and Host, words of ours
	Host    string // remote server
	Last    time.Time
	Expires time.Time // of Delayed: attempts go on until then
}

// Report is what to tell.
type Report struct {
	Kind       Kind
	Parent     Parent
	Recipients []Recipient
	Language   string // tag of the sender's (RFC 5646), empty for unknown
	// ReportingMTA is the host name of this server.
	ReportingMTA string
	// From is who the notification comes from; zero: MAILER-DAEMON at
	// ReportingMTA.
	From mail.Address
	Now  time.Time // also decides the time zone of the text
	// MaxFull is the size up to which the whole message is attached where RET
	// asks for it, in octets; 0: 10 MiB. The header is attached otherwise.
	MaxFull int
}

// Wanted tells whether a recipient with that NOTIFY is reported (RFC 3461
// sections 4.1 and 5.2). Without NOTIFY failures and delays are.
func Wanted(k Kind, notify string) bool {
	if notify == "" {
		return k == Failed || k == Delayed
	}
	return asked(k, notify)
}

// asked tells whether NOTIFY names the kind.
func asked(k Kind, notify string) bool {
	want := [...]string{"FAILURE", "DELAY", "SUCCESS", "SUCCESS"}[k]
	for word := range strings.SplitSeq(notify, ",") {
		if strings.EqualFold(strings.TrimSpace(word), want) {
			return true
		}
	}
	return false
}

// wanted gives the recipients to report, in the order of their rows.
func (r *Report) wanted(h header) []Recipient {
	var out []Recipient
	for _, c := range r.Recipients {
		if !Wanted(r.Kind, c.Notify) {
			continue
		}
		// A machine that did not ask does not care for delays.
		if r.Kind == Delayed && h.Automatic && !asked(Delayed, c.Notify) {
			continue
		}
		if out = append(out, c); len(out) == maxRecipients {
			break
		}
	}
	slices.SortStableFunc(out, func(a, b Recipient) int { return int(a.Row) - int(b.Row) })
	return out
}

// identity is the delivery identity of the notification and the source of its
// trace: whoever tells the same of the same message makes the same one.
func identity(k Kind, parent mail.TraceID, rows []Recipient) [32]byte {
	b := append([]byte("delivery status notification "), byte(k))
	b = append(b, parent[:]...)
	for _, c := range rows {
		b = binary.BigEndian.AppendUint16(b, c.Row)
	}
	return sha256.Sum256(b)
}

// trace keeps the parent's time in front, since identities sort by time and the
// clock of who makes it must not matter.
func trace(parent mail.TraceID, id [32]byte) mail.TraceID {
	t := parent
	copy(t[6:], id[:])
	return t
}

// Build writes the notification. False: there is nothing to tell or nobody to
// tell it to.
func Build(r Report) (mail.Submission, bool) {
	sender, err := mail.ParseAddress(r.Parent.Envelope.From)
	if err != nil { // the null sender, too
		return mail.Submission{}, false
	}
	h := headerOf(r.Parent)
	if h.notification() {
		return mail.Submission{}, false
	}
	rows := r.wanted(h)
	if len(rows) == 0 {
		return mail.Submission{}, false
	}
	id := identity(r.Kind, r.Parent.Trace, rows)
	b := builder{report: r, sender: sender, rows: rows, header: h, trace: trace(r.Parent.Trace, id), words: wordsFor(r.Language)}
	b.utf8 = sender.NeedsUTF8() || r.Parent.Envelope.UTF8 && b.beyondASCII()
	body, eightBit := b.message()
	return mail.Submission{
		Trace: b.trace,
		Envelope: mail.Envelope{
			Recipients: []mail.EnvelopeRecipient{{Address: r.Parent.Envelope.From, Notify: "NEVER"}},
			UTF8:       b.utf8, EightBit: eightBit, RequireTLS: r.Parent.Envelope.RequireTLS,
		},
		Origin:   mail.Origin{Door: "internal", Organization: r.Parent.Organization, Trusted: true},
		Body:     body,
		Identity: id,
		Received: r.Now,
		Priority: mail.PriorityHigh,
	}, true
}
