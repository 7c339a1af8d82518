package mail

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// TraceID names a message from its arrival on, on every server and in every
// log: 6 bytes of milliseconds since 1970 and 10 random ones, so identities
// sort by time.
type TraceID [16]byte

var traceEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewTraceID makes the identity of a message that arrives now.
func NewTraceID(now time.Time) TraceID {
	var t TraceID
	rand.Read(t[:]) // never fails (crypto/rand)
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(t[:6], ms[2:])
	return t
}

// ParseTraceID reads what String wrote.
func ParseTraceID(s string) (TraceID, error) {
	var t TraceID
	b, err := traceEncoding.DecodeString(s)
	if err != nil || len(b) != len(t) {
		return t, fmt.Errorf("trace %.40q: want 26 characters of 0-9 and a-z", s)
	}
	return TraceID(b), nil
}

// String writes it in 26 characters that sort as the identities do.
func (t TraceID) String() string { return traceEncoding.EncodeToString(t[:]) }

// Time is when the message arrived, to the millisecond.
func (t TraceID) Time() time.Time {
	var ms [8]byte
	copy(ms[2:], t[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}

// MarshalText implements encoding.TextMarshaler.
func (t TraceID) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *TraceID) UnmarshalText(b []byte) (err error) {
	*t, err = ParseTraceID(string(b))
	return err
}

// Envelope is what MAIL and RCPT said (RFC 5321, with the parameters of RFC
// 3461, 6152, 6531 and 8689).
type Envelope struct {
	From       string              `cbor:"1,keyasint,omitempty"` // as written; empty is the null sender
	Recipients []EnvelopeRecipient `cbor:"2,keyasint"`
	Ret        string              `cbor:"3,keyasint,omitempty"` // FULL or HDRS
	EnvID      string              `cbor:"4,keyasint,omitempty"` // decoded xtext
	UTF8       bool                `cbor:"5,keyasint,omitempty"` // SMTPUTF8
	EightBit   bool                `cbor:"6,keyasint,omitempty"` // BODY=8BITMIME
	RequireTLS bool                `cbor:"7,keyasint,omitempty"`
	// Size is what SIZE announced in bytes (RFC 1870), 0 for nothing; it matters
	// during the dialogue only.
	Size int64 `cbor:"-"`
}

// EnvelopeRecipient is one RCPT.
type EnvelopeRecipient struct {
	Address string `cbor:"1,keyasint"`
	Notify  string `cbor:"2,keyasint,omitempty"` // NEVER, or a list of SUCCESS, FAILURE, DELAY; empty: not said
	ORcpt   string `cbor:"3,keyasint,omitempty"` // type;address, decoded
}

// Origin tells where a message came from.
type Origin struct {
	Door         string             `cbor:"1,keyasint"` // receive, submission, internal
	Remote       string             `cbor:"2,keyasint,omitempty"`
	Helo         string             `cbor:"3,keyasint,omitempty"`
	Account      string             `cbor:"4,keyasint,omitempty"` // who logged in
	Connector    string             `cbor:"5,keyasint,omitempty"` // by which it was proven
	Organization org.OrganizationID `cbor:"6,keyasint,omitempty"` // of the account or connector
	TLS          string             `cbor:"7,keyasint,omitempty"` // version and cipher, empty for none
	Trusted      bool               `cbor:"8,keyasint,omitempty"` // may relay
}

// Priority of a message in the queue; smaller is sooner.
type Priority uint8

// The priorities.
const (
	PriorityHigh   Priority = iota // notifications and probes
	PriorityNormal                 // what people send
	PriorityLow                    // bulk, by its header or by policy
	PriorityLowest                 // resubmission
)

// Submission is a message handed to transport.
type Submission struct {
	Trace    TraceID
	Envelope Envelope
	Origin   Origin
	// Body is the message as it will be kept; on success it belongs to transport.
	Body []byte
	// Identity tells repetitions of a client from new messages; see Delivery.
	Identity [32]byte
	Received time.Time
	Priority Priority
	// Quarantine is why the message goes there instead, empty when it does not.
	Quarantine string
}

// Receipt is the answer to a Submission that is kept.
type Receipt struct {
	Trace  TraceID
	Shadow org.ServerName // holds the second copy; empty: there is none
}

// ErrNoSecondCopy marks the refusal of a message that only this server could
// have stored (451 4.4.0).
var ErrNoSecondCopy = errors.New("no second server could store it")

// Peer is who is at the other end of an SMTP session.
type Peer struct {
	Remote       netip.Addr
	Reverse      string // verified name of Remote, empty for none
	Helo         string
	TLS          *tls.ConnectionState // nil without TLS
	Door         string               // as in Origin
	Account      string
	Connector    string
	Organization org.OrganizationID
}

// Action is what policy does with a session, a recipient or a message.
type Action uint8

// The actions.
const (
	ActionPass       Action = iota
	ActionDefer             // 4xx
	ActionRefuse            // 5xx
	ActionDiscard           // 250, and recorded as dropped
	ActionQuarantine        // 250, and kept in quarantine
)

// Verdict is what policy says of one step of a session.
type Verdict struct {
	Action Action
	Status string        // enhanced status code, such as 5.7.1
	Text   string        // one line for the client
	Why    string        // for the log only
	Delay  time.Duration // before the answer
	Close  bool          // hang up after the answer
	// Prepend are whole header lines to put in front of the message.
	Prepend []byte
}
