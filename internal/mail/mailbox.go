package mail

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// UID identifies a message in a folder (RFC 9051 section 2.3.1.1): it grows
// and is never used twice within a UIDVALIDITY.
type UID uint32

// ModSeq counts the changes of a mailbox (RFC 7162, RFC 8621 state). One
// counter serves all folders of a mailbox; it never goes back.
type ModSeq uint64

// FolderID is the stable identity of a folder within its mailbox; it survives
// renames (RFC 8474 MAILBOXID).
type FolderID uint32

// EmailID is the stable identity of a message's content within its mailbox;
// copies share it (RFC 8474 EMAILID).
type EmailID uint64

// ThreadID joins the messages of a conversation (RFC 8474 THREADID).
type ThreadID uint64

// BlobID names a message's bytes within its database.
type BlobID uint64

// Flags are the system flags of a message (RFC 9051 section 2.3.2).
type Flags uint8

// The system flags.
const (
	Seen Flags = 1 << iota
	Answered
	Flagged
	Deleted
	Draft
)

// Folder is an IMAP mailbox (JMAP: Mailbox). Names are UTF-8 with "/" between
// levels; "INBOX" is always there.
type Folder struct {
	ID            FolderID `cbor:"1,keyasint"`
	Name          string   `cbor:"2,keyasint"`
	UIDValidity   uint32   `cbor:"3,keyasint"`
	UIDNext       UID      `cbor:"4,keyasint"`
	HighestModSeq ModSeq   `cbor:"5,keyasint"`
	Messages      uint32   `cbor:"6,keyasint"`
	Unseen        uint32   `cbor:"7,keyasint"`
	Deleted       uint32   `cbor:"8,keyasint"`            // with \Deleted
	Size          int64    `cbor:"9,keyasint"`            // bytes
	SpecialUse    string   `cbor:"10,keyasint,omitempty"` // "\\Sent" and so on (RFC 6154), empty for none
	Subscribed    bool     `cbor:"11,keyasint,omitempty"`
}

// Message is one message in one folder.
type Message struct {
	UID          UID      `cbor:"1,keyasint"`
	ModSeq       ModSeq   `cbor:"2,keyasint"`
	Flags        Flags    `cbor:"3,keyasint"`
	Keywords     []string `cbor:"4,keyasint,omitempty"` // sorted, as first spelled
	Email        EmailID  `cbor:"5,keyasint"`
	Thread       ThreadID `cbor:"6,keyasint"`
	Blob         BlobID   `cbor:"7,keyasint"`
	Size         int64    `cbor:"8,keyasint"`  // bytes, RFC822.SIZE
	InternalDate int64    `cbor:"9,keyasint"`  // Unix nanoseconds
	SaveDate     int64    `cbor:"10,keyasint"` // Unix nanoseconds (RFC 8514)
	Created      ModSeq   `cbor:"11,keyasint"` // mod-sequence at which it entered the folder

	Summary *Summary `cbor:"12,keyasint,omitempty"` // only where asked for
	// Header is the message's header with the empty line, only where asked
	// for and small; it is never stored with the index.
	Header []byte `cbor:"13,keyasint,omitempty"`
}

// Time returns the internal date.
func (m Message) Time() time.Time { return time.Unix(0, m.InternalDate) }

// Summary is what is parsed once, on delivery, and kept with the index.
type Summary struct {
	Envelope  MessageEnvelope `cbor:"1,keyasint"`
	Structure *Part           `cbor:"2,keyasint"`
	Preview   string          `cbor:"3,keyasint,omitempty"` // up to 256 characters of text (RFC 8970)
}

// MessageEnvelope is the parsed header an IMAP ENVELOPE needs (RFC 9051
// section 7.5.2). Strings are raw header values with RFC 2047 words kept as
// received, limited in length.
type MessageEnvelope struct {
	Date       int64           `cbor:"1,keyasint,omitempty"` // Unix seconds, 0 when absent or unreadable
	RawDate    string          `cbor:"2,keyasint,omitempty"`
	Subject    string          `cbor:"3,keyasint,omitempty"`
	From       []HeaderAddress `cbor:"4,keyasint,omitempty"`
	Sender     []HeaderAddress `cbor:"5,keyasint,omitempty"`
	ReplyTo    []HeaderAddress `cbor:"6,keyasint,omitempty"`
	To         []HeaderAddress `cbor:"7,keyasint,omitempty"`
	Cc         []HeaderAddress `cbor:"8,keyasint,omitempty"`
	Bcc        []HeaderAddress `cbor:"9,keyasint,omitempty"`
	InReplyTo  []string        `cbor:"10,keyasint,omitempty"` // message ids without brackets
	MessageID  string          `cbor:"11,keyasint,omitempty"` // without brackets
	References []string        `cbor:"12,keyasint,omitempty"` // without brackets, bounded
}

// HeaderAddress is one address of a header. A group begins with an entry that has only
// Mailbox and ends with an empty one, as in IMAP.
type HeaderAddress struct {
	Name    string `cbor:"1,keyasint,omitempty"`
	Mailbox string `cbor:"2,keyasint,omitempty"`
	Host    string `cbor:"3,keyasint,omitempty"`
}

// Part is a node of a message's MIME structure (RFC 9051 BODYSTRUCTURE).
// Offsets are bytes from the start of the whole message, so a section is read
// without parsing again.
type Part struct {
	Type        string            `cbor:"1,keyasint"` // lower case
	Subtype     string            `cbor:"2,keyasint"` // lower case
	Params      map[string]string `cbor:"3,keyasint,omitempty"`
	ID          string            `cbor:"4,keyasint,omitempty"`
	Description string            `cbor:"5,keyasint,omitempty"`
	Encoding    string            `cbor:"6,keyasint,omitempty"`
	Disposition string            `cbor:"7,keyasint,omitempty"`
	DispParams  map[string]string `cbor:"8,keyasint,omitempty"`
	Language    []string          `cbor:"9,keyasint,omitempty"`
	Location    string            `cbor:"10,keyasint,omitempty"`
	HeaderStart int64             `cbor:"11,keyasint"`
	BodyStart   int64             `cbor:"12,keyasint"`
	BodyEnd     int64             `cbor:"13,keyasint"`
	Lines       int64             `cbor:"14,keyasint,omitempty"` // of the body
	Children    []*Part           `cbor:"15,keyasint,omitempty"` // multipart
	Message     *Part             `cbor:"16,keyasint,omitempty"` // the root of a message/rfc822
	Envelope    *MessageEnvelope  `cbor:"17,keyasint,omitempty"` // of that message
}

// UIDRange is a closed range of UIDs.
type UIDRange struct {
	First UID `cbor:"1,keyasint"`
	Last  UID `cbor:"2,keyasint"`
}

// Key makes a change safe to repeat: a change with a key that was applied
// before answers as it did then and does nothing. Zero means no key.
type Key [16]byte

// Delivery is one message for mailboxes of one or several databases.
type Delivery struct {
	Key        Key         `cbor:"1,keyasint"`
	Recipients []Recipient `cbor:"2,keyasint"`
	Body       []byte      `cbor:"3,keyasint"` // the message as it will be read, trace lines included
	Date       int64       `cbor:"4,keyasint"` // Unix nanoseconds
	// Identity is the delivery identity (client, envelope, content). A mailbox that took
	// it within the duplicate window (48 h) reports Duplicate and keeps one
	// copy. Zero means none.
	Identity [32]byte `cbor:"5,keyasint"`
	TraceID  string   `cbor:"6,keyasint,omitempty"`
}

// Recipient is a mailbox a delivery goes to.
type Recipient struct {
	Mailbox org.MailboxRef `cbor:"1,keyasint"`
	Folder  string         `cbor:"2,keyasint,omitempty"` // empty for INBOX
}

// Delivered tells what became of a delivery for one recipient.
type Delivered struct {
	Mailbox   org.MailboxRef `cbor:"1,keyasint"`
	Duplicate bool           `cbor:"2,keyasint,omitempty"`
	Email     EmailID        `cbor:"3,keyasint,omitempty"`
	UID       UID            `cbor:"4,keyasint,omitempty"`
	// Refused is set where this mailbox cannot take the message while others
	// did: its kind and text.
	Refused     string `cbor:"5,keyasint,omitempty"`
	RefusedKind uint8  `cbor:"6,keyasint,omitempty"`
}

// Append puts a message in a folder.
type Append struct {
	Key          Key      `cbor:"1,keyasint"`
	Folder       string   `cbor:"2,keyasint"`
	Flags        Flags    `cbor:"3,keyasint"`
	Keywords     []string `cbor:"4,keyasint,omitempty"`
	InternalDate int64    `cbor:"5,keyasint"` // Unix nanoseconds, 0 for now
	Body         []byte   `cbor:"6,keyasint"`
	// Unless refuses the message, as Exists, where the mailbox has this email; 0: no
	// matter what it has.
	Unless EmailID `cbor:"7,keyasint,omitempty"`
}

// Appended is the answer to Append (RFC 4315 APPENDUID).
type Appended struct {
	UIDValidity uint32 `cbor:"1,keyasint"`
	UID         UID    `cbor:"2,keyasint"`
	ModSeq      ModSeq `cbor:"3,keyasint"`
}

// FolderChange creates, renames, deletes or (un)subscribes a folder.
type FolderChange struct {
	Key        Key    `cbor:"1,keyasint"`
	Op         string `cbor:"2,keyasint"` // "create", "rename", "delete", "subscribe", "unsubscribe"
	Name       string `cbor:"3,keyasint"`
	NewName    string `cbor:"4,keyasint,omitempty"`
	SpecialUse string `cbor:"5,keyasint,omitempty"`
}

// MessagesRequest asks for messages of a folder in UID order.
type MessagesRequest struct {
	Folder       FolderID   `cbor:"1,keyasint"`
	UIDs         []UIDRange `cbor:"2,keyasint"` // nil for all
	ChangedSince ModSeq     `cbor:"3,keyasint,omitempty"`
	Summaries    bool       `cbor:"4,keyasint,omitempty"`
	Limit        int        `cbor:"5,keyasint,omitempty"` // 0 = the store's own page limit
	// Headers asks for raw headers too; a store may leave out those that
	// would make its answer large, to be read with Body, and gives the
	// summary of such a message instead.
	Headers bool `cbor:"6,keyasint,omitempty"`
}

// Messages is a page of a folder. More tells that it was cut; ask again from
// the last UID.
type Messages struct {
	Folder   Folder    `cbor:"1,keyasint"`
	Messages []Message `cbor:"2,keyasint"`
	More     bool      `cbor:"3,keyasint,omitempty"`
}

// BodyRequest asks for bytes of a message. Length 0 asks for the rest. A
// store answers with at most 4 MiB at a time.
type BodyRequest struct {
	Blob   BlobID `cbor:"1,keyasint"`
	Offset int64  `cbor:"2,keyasint"`
	Length int64  `cbor:"3,keyasint"`
}

// FlagsChange changes flags of messages (RFC 9051 STORE, RFC 7162).
type FlagsChange struct {
	Key            Key        `cbor:"1,keyasint"`
	Folder         FolderID   `cbor:"2,keyasint"`
	UIDs           []UIDRange `cbor:"3,keyasint"`
	Op             string     `cbor:"4,keyasint"` // "set", "add", "remove"
	Flags          Flags      `cbor:"5,keyasint"`
	Keywords       []string   `cbor:"6,keyasint,omitempty"`
	UnchangedSince *ModSeq    `cbor:"7,keyasint,omitempty"`
}

// FlagsChanged is the answer to FlagsChange: the messages as they are now,
// and those left alone because of UnchangedSince.
type FlagsChanged struct {
	Messages []Message  `cbor:"1,keyasint"`
	Modified []UIDRange `cbor:"2,keyasint,omitempty"`
	ModSeq   ModSeq     `cbor:"3,keyasint"`
	// Changed tells that some message is different now, and ModSeq is of this
	// change alone.
	Changed bool `cbor:"4,keyasint,omitempty"`
}

// Expunge removes messages; with OnlyDeleted just those that carry \Deleted.
type Expunge struct {
	Key         Key        `cbor:"1,keyasint"`
	Folder      FolderID   `cbor:"2,keyasint"`
	UIDs        []UIDRange `cbor:"3,keyasint"` // nil for all
	OnlyDeleted bool       `cbor:"4,keyasint"`
}

// Expunged is the answer to Expunge.
type Expunged struct {
	UIDs   []UIDRange `cbor:"1,keyasint"`
	ModSeq ModSeq     `cbor:"2,keyasint"`
}

// CopyRequest copies or moves messages to another folder of the mailbox.
type CopyRequest struct {
	Key    Key        `cbor:"1,keyasint"`
	Folder FolderID   `cbor:"2,keyasint"`
	UIDs   []UIDRange `cbor:"3,keyasint"`
	Target string     `cbor:"4,keyasint"`
	Move   bool       `cbor:"5,keyasint,omitempty"`
}

// Copied is the answer to CopyRequest (RFC 4315 COPYUID): Source[i] became
// Target[i].
type Copied struct {
	UIDValidity uint32 `cbor:"1,keyasint"`
	Source      []UID  `cbor:"2,keyasint"`
	Target      []UID  `cbor:"3,keyasint"`
	ModSeq      ModSeq `cbor:"4,keyasint"`
}

// SearchRequest asks which messages of a folder match.
type SearchRequest struct {
	Folder   FolderID `cbor:"1,keyasint"`
	Criteria Criteria `cbor:"2,keyasint"`
}

// Criteria all have to match (RFC 9051 section 6.4.4). Zero fields do not
// count. Text is matched without regard to case, after decoding.
type Criteria struct {
	UIDs        [][]UIDRange  `cbor:"1,keyasint,omitempty"` // each set has to hold the message
	Flags       Flags         `cbor:"2,keyasint,omitempty"`
	NotFlags    Flags         `cbor:"3,keyasint,omitempty"`
	Keywords    []string      `cbor:"4,keyasint,omitempty"`
	NotKeywords []string      `cbor:"5,keyasint,omitempty"`
	Since       int64         `cbor:"6,keyasint,omitempty"` // internal date, Unix seconds, inclusive
	Before      int64         `cbor:"7,keyasint,omitempty"` // exclusive
	SentSince   int64         `cbor:"8,keyasint,omitempty"`
	SentBefore  int64         `cbor:"9,keyasint,omitempty"`
	Larger      int64         `cbor:"10,keyasint,omitempty"`
	Smaller     int64         `cbor:"11,keyasint,omitempty"`
	Header      []HeaderMatch `cbor:"12,keyasint,omitempty"`
	Body        []string      `cbor:"13,keyasint,omitempty"`
	Text        []string      `cbor:"14,keyasint,omitempty"`
	ModSeq      ModSeq        `cbor:"15,keyasint,omitempty"`
	Not         []Criteria    `cbor:"16,keyasint,omitempty"`
	Or          [][2]Criteria `cbor:"17,keyasint,omitempty"`
}

// HeaderMatch asks for a header field that contains Value; an empty Value
// asks only that it is there.
type HeaderMatch struct {
	Name  string `cbor:"1,keyasint"`
	Value string `cbor:"2,keyasint"`
}

// Found is the answer to SearchRequest, in UID order.
type Found struct {
	UIDs          []UID  `cbor:"1,keyasint"`
	HighestModSeq ModSeq `cbor:"2,keyasint"` // of the messages found
}

// ChangesRequest asks what changed in a folder after Since.
type ChangesRequest struct {
	Folder FolderID `cbor:"1,keyasint"`
	Since  ModSeq   `cbor:"2,keyasint"`
}

// Changes is the answer: messages new or changed (in UID order) and UIDs that
// left. When Since is older than what the change log holds, Reset is set and
// the caller starts over. Gone tells that the folder was deleted.
type Changes struct {
	Folder   Folder     `cbor:"1,keyasint"`
	Messages []Message  `cbor:"2,keyasint"`
	Vanished []UIDRange `cbor:"3,keyasint"`
	Reset    bool       `cbor:"4,keyasint,omitempty"`
	Gone     bool       `cbor:"5,keyasint,omitempty"`
}

// Usage is a mailbox's size and limits.
type Usage struct {
	Bytes         int64  `cbor:"1,keyasint" json:"bytes"`
	Messages      int64  `cbor:"2,keyasint" json:"messages"`
	QuotaBytes    int64  `cbor:"3,keyasint" json:"quota_bytes"` // 0 = none
	QuotaMessages int64  `cbor:"4,keyasint" json:"quota_messages"`
	ModSeq        ModSeq `cbor:"5,keyasint" json:"modseq"`
}

// MailboxSetup creates a mailbox in its database or changes its limits. It may be repeated.
type MailboxSetup struct {
	Organization  org.OrganizationID `cbor:"1,keyasint"`
	QuotaBytes    int64              `cbor:"2,keyasint"`
	QuotaMessages int64              `cbor:"3,keyasint"`
	Remove        bool               `cbor:"4,keyasint,omitempty"` // delete the mailbox and all in it
}

// Watch tells of changes to a mailbox until it is closed. A value on C means "something
// changed, ask Changes"; values are merged and none is lost, also over a failover.
type Watch interface {
	C() <-chan struct{}
	// Newest is the highest modification number that the values on C since the
	// last call stand for: who knows the mailbox up to there has nothing to
	// ask. It is AnyModSeq where the watch cannot tell.
	Newest() ModSeq
	Close()
}

// AnyModSeq is above every modification number.
const AnyModSeq ModSeq = 1<<64 - 1

// Store is a mailbox as the doors see it, wherever its active copy is. A call
// that meets a failover waits for the new active copy, as long as ctx allows,
// and goes on; a change carries a key and is applied once. Errors have a kind
// (base/kind): Busy when the wait was in vain, NotFound, Exists, Invalid, Full.
type Store interface {
	Setup(ctx context.Context, at org.MailboxRef, r MailboxSetup) error
	// Deliver answers per recipient, in order. The error is nil when all that was not
	// Refused is committed; otherwise nothing may be assumed and the delivery
	// is to be repeated with the same Identity.
	Deliver(ctx context.Context, d Delivery) ([]Delivered, error)
	Append(ctx context.Context, at org.MailboxRef, r Append) (Appended, error)
	Folders(ctx context.Context, at org.MailboxRef) ([]Folder, error)
	ChangeFolder(ctx context.Context, at org.MailboxRef, r FolderChange) (Folder, error)
	Messages(ctx context.Context, at org.MailboxRef, r MessagesRequest) (Messages, error)
	Body(ctx context.Context, at org.MailboxRef, r BodyRequest) ([]byte, error)
	ChangeFlags(ctx context.Context, at org.MailboxRef, r FlagsChange) (FlagsChanged, error)
	Expunge(ctx context.Context, at org.MailboxRef, r Expunge) (Expunged, error)
	Copy(ctx context.Context, at org.MailboxRef, r CopyRequest) (Copied, error)
	Search(ctx context.Context, at org.MailboxRef, r SearchRequest) (Found, error)
	Changes(ctx context.Context, at org.MailboxRef, r ChangesRequest) (Changes, error)
	Usage(ctx context.Context, at org.MailboxRef) (Usage, error)
	Watch(at org.MailboxRef) Watch
}
