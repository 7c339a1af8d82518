package imapd

import (
	"errors"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/base/kind"
)

func no(code imap.ResponseCode, text string) error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: text}
}

func bad(text string) error {
	return &imap.Error{Type: imap.StatusResponseTypeBad, Code: imap.ResponseCodeClientBug, Text: text}
}

var (
	errNonExistent = no(imap.ResponseCodeNonExistent, "No such mailbox")
	errTryCreate   = no(imap.ResponseCodeTryCreate, "No such mailbox")
	errUnavailable = no(imap.ResponseCodeUnavailable, "The mailbox is temporarily unavailable, try again")
	errReadOnly    = no(imap.ResponseCodeNoPerm, "The mailbox was opened read-only")
)

// answer turns an error of the store into a tagged answer. Texts are fixed:
// nothing of the inside is told to clients.
func (s *session) answer(op string, err error) error {
	var ready *imap.Error
	if err == nil || errors.As(err, &ready) {
		return err
	}
	switch kind.Of(err) {
	case kind.NotFound:
		return errNonExistent
	case kind.Exists:
		return no(imap.ResponseCodeAlreadyExists, "The mailbox exists already")
	case kind.Full:
		return no(imap.ResponseCodeOverQuota, "Not enough room")
	case kind.Invalid:
		return no(imap.ResponseCodeCannot, "This cannot be done")
	case kind.Denied:
		return no(imap.ResponseCodeNoPerm, "Not permitted")
	case kind.Busy, kind.Elsewhere, kind.Conflict:
		s.log.Info("imap command gave up waiting", "op", op, "err", err)
		s.srv.metrics.unavailable.Inc()
		return errUnavailable
	case kind.Corrupt:
		s.srv.events.Emit(eventDamaged, "IMAP %s of %s met damaged data: %v", op, s.account.Mailbox.ID, err)
		return no(imap.ResponseCodeUnavailable, "Stored data is damaged and being repaired, try again later")
	}
	s.log.Error("imap command failed", "op", op, "err", err)
	return no(imap.ResponseCodeServerBug, "Internal server error")
}
