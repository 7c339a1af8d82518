package imapserver

import (
	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

// ErrAuthFailed is returned by Session.Login on authentication failure.
var ErrAuthFailed = &imap.Error{
	Type: imap.StatusResponseTypeNo,
	Code: imap.ResponseCodeAuthenticationFailed,
	Text: "Authentication failed",
}

// NumKind describes how a number should be interpreted: either as a sequence
// number, either as a UID.
type NumKind = imapwire.NumKind

// The kinds of numbers.
const (
	NumKindSeq = imapwire.NumKindSeq
	NumKindUID = imapwire.NumKindUID
)

// Session is what a connection asks of the mailbox behind it. Its methods are
// called one after the other. An *imap.Error or *imapwire.SyntaxError is
// answered to the client; any other error ends the connection.
type Session interface {
	// Close is called once, when the connection has ended.
	Close() error

	// Not authenticated state

	// Login checks a password.
	Login(username, password string) error

	// Authenticated state

	Select(mailbox string, options *imap.SelectOptions) (*imap.SelectData, error)
	Create(mailbox string, options *imap.CreateOptions) error
	Delete(mailbox string) error
	Rename(mailbox, newName string) error
	Subscribe(mailbox string) error
	Unsubscribe(mailbox string) error
	List(w *ListWriter, ref string, patterns []string, options *imap.ListOptions) error
	Status(mailbox string, options *imap.StatusOptions) (*imap.StatusData, error)
	Namespace() (*imap.NamespaceData, error)
	// AppendLimit is the largest message APPEND takes, in bytes.
	AppendLimit() uint32
	// AppendCheck refuses an APPEND before its literal is read. waits tells
	// that the client has not sent it yet.
	AppendCheck(mailbox string, size int64, waits bool, options *imap.AppendOptions) error
	// Append reads the message, calls end, which reads the end of the command,
	// and only then stores the message: a command that is cut or malformed
	// stores nothing.
	Append(mailbox string, r *imapwire.LiteralReader, options *imap.AppendOptions, end func() error) (*imap.AppendData, error)
	// Poll tells what happened meanwhile; ask is set where the client asked
	// for just that.
	Poll(w *UpdateWriter, allowExpunge, ask bool) error
	// Idle tells what happens until stop is closed. It is called in a
	// goroutine of its own while no other method is.
	Idle(w *UpdateWriter, stop <-chan struct{}) error

	// Selected state

	Unselect() error
	// Expunge removes messages with \Deleted; uids is nil for all.
	Expunge(w *ExpungeWriter, uids *imap.UIDSet) error
	Search(kind NumKind, criteria *imap.SearchCriteria, options *imap.SearchOptions) (*imap.SearchData, error)
	Fetch(w *FetchWriter, numSet imap.NumSet, options *imap.FetchOptions) error
	Store(w *FetchWriter, numSet imap.NumSet, flags *imap.StoreFlags) error
	Copy(numSet imap.NumSet, dest string) (*imap.CopyData, error)
	Move(w *MoveWriter, numSet imap.NumSet, dest string) error
}
