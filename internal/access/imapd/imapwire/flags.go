package imapwire

import (
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// Layouts of RFC 9051 section 9.
const (
	DateTimeLayout = "_2-Jan-2006 15:04:05 -0700"
	DateLayout     = "2-Jan-2006"
)

// FlagRecent was removed in IMAP4rev2; no message here ever carries it.
const FlagRecent imap.Flag = "\\Recent"

// DecodeDateTime reads a date-time, if there is one.
func DecodeDateTime(dec *Decoder) (time.Time, error) {
	var s string
	if !dec.Quoted(&s) {
		return time.Time{}, nil
	}
	t, err := time.Parse(DateTimeLayout, s)
	if err != nil {
		return time.Time{}, Syntaxf("date-time %.40q", s)
	}
	return t, err
}

// ExpectDate expects a date.
func ExpectDate(dec *Decoder) (time.Time, error) {
	var s string
	if !dec.ExpectAString(&s) {
		return time.Time{}, dec.Err()
	}
	t, err := time.Parse(DateLayout, s)
	if err != nil {
		return time.Time{}, Syntaxf("date %.40q", s)
	}
	return t, nil
}

// ExpectCap expects a capability.
func ExpectCap(dec *Decoder) (imap.Cap, error) {
	var name string
	if !dec.ExpectAtom(&name) {
		return "", dec.Err()
	}
	return canonicalCap(name), nil
}

// ExpectFlag expects a flag.
func ExpectFlag(dec *Decoder) (imap.Flag, error) {
	isSystem := dec.Special('\\')
	if isSystem && dec.Special('*') {
		return imap.FlagWildcard, nil // flag-perm
	}
	var name string
	if !dec.ExpectAtom(&name) {
		return "", fmt.Errorf("in flag: %w", dec.Err())
	}
	if isSystem {
		name = "\\" + name
	}
	return canonicalFlag(name), nil
}

// ExpectMailboxAttrList expects a list of mailbox attributes.
func ExpectMailboxAttrList(dec *Decoder) ([]imap.MailboxAttr, error) {
	var attrs []imap.MailboxAttr
	err := dec.ExpectList(func() error {
		attr, err := ExpectMailboxAttr(dec)
		if err != nil {
			return err
		}
		attrs = append(attrs, attr)
		return nil
	})
	return attrs, err
}

// ExpectMailboxAttr expects a mailbox attribute.
func ExpectMailboxAttr(dec *Decoder) (imap.MailboxAttr, error) {
	flag, err := ExpectFlag(dec)
	return canonicalMailboxAttr(string(flag)), err
}

// canonFlags and canonAttrs are the spellings that are written back however the
// client spelled them.
var (
	canonFlags = []imap.Flag{
		imap.FlagSeen, imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagDraft,
		imap.FlagForwarded, imap.FlagMDNSent, imap.FlagJunk, imap.FlagNotJunk, imap.FlagPhishing,
		imap.FlagImportant,
	}
	canonAttrs = []imap.MailboxAttr{
		imap.MailboxAttrAll, imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrFlagged,
		imap.MailboxAttrJunk, imap.MailboxAttrSent, imap.MailboxAttrTrash, imap.MailboxAttrImportant,
	}
)

func canonicalFlag(s string) imap.Flag {
	for _, f := range canonFlags {
		if strings.EqualFold(s, string(f)) {
			return f
		}
	}
	return imap.Flag(s)
}

func canonicalMailboxAttr(s string) imap.MailboxAttr {
	for _, a := range canonAttrs {
		if strings.EqualFold(s, string(a)) {
			return a
		}
	}
	return imap.MailboxAttr(s)
}

func canonicalCap(s string) imap.Cap {
	// Only two caps are not fully uppercase
	for _, cap := range []imap.Cap{imap.CapIMAP4rev1, imap.CapIMAP4rev2} {
		if strings.EqualFold(s, string(cap)) {
			return cap
		}
	}
	return imap.Cap(strings.ToUpper(s))
}
