package imapd

import (
	"io"
	"math"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// appendStart is how much memory an announced message gets before any of it
// has come.
const appendStart = 256 << 10

// AppendLimit implements imapserver.Session (RFC 7889).
func (s *session) AppendLimit() uint32 { return uint32(s.srv.cfg.MaxMessageBytes) }

// AppendCheck implements imapserver.Session: it refuses what can be known to
// fail and reserves the memory.
func (s *session) AppendCheck(mailbox string, size int64, waits bool, o *imap.AppendOptions) error {
	switch {
	case size > s.srv.cfg.MaxMessageBytes:
		return no(imap.ResponseCodeTooBig, "The message is larger than APPENDLIMIT")
	case size == 0:
		return no(imap.ResponseCodeCannot, "The message is empty")
	}
	if _, _, err := splitFlags(o.Flags); err != nil {
		return err
	}
	ctx, cancel := s.wait()
	defer cancel()
	if waits {
		if _, err := s.folder(ctx, mailbox); err == errNonExistent {
			return errTryCreate
		} else if err != nil {
			return s.answer("append", err)
		}
	}
	s.releaseAppend()
	if err := s.srv.appendMemory.Acquire(ctx, size); err != nil {
		return no(imap.ResponseCodeUnavailable, "Too many messages are being appended, try again")
	}
	s.appendHeld = size
	return nil
}

func (s *session) releaseAppend() {
	s.srv.appendMemory.Release(s.appendHeld)
	s.appendHeld = 0
}

// Append implements imapserver.Session.
func (s *session) Append(mailbox string, r *imapwire.LiteralReader, o *imap.AppendOptions, end func() error) (*imap.AppendData, error) {
	defer s.releaseAppend()
	text, err := readMessage(r, r.Size())
	if err != nil {
		return nil, err
	}
	if err := end(); err != nil {
		return nil, err
	}
	sys, keywords, err := splitFlags(o.Flags)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.wait()
	defer cancel()
	done, err := s.srv.deps.Store.Append(ctx, s.account.Mailbox, mail.Append{
		Key: newKey(), Folder: canonical(mailbox), Flags: sys, Keywords: keywords,
		InternalDate: internalDate(o.Time), Body: text,
	})
	if kind.Is(err, kind.NotFound) {
		return nil, errTryCreate
	} else if err != nil {
		return nil, s.answer("append", err)
	}
	s.owe()
	return &imap.AppendData{UID: imap.UID(done.UID), UIDValidity: done.UIDValidity}, nil
}

// internalDate is 0, which means now, also for what nanoseconds cannot hold.
func internalDate(t time.Time) int64 {
	if sec := t.Unix(); t.IsZero() || sec >= math.MaxInt64/int64(time.Second) || sec <= 0 {
		return 0
	}
	return t.UnixNano()
}

// readMessage reads size bytes. All the memory is taken only once some of the
// message has come: announcing is cheap.
func readMessage(r io.Reader, size int64) ([]byte, error) {
	buf := make([]byte, min(size, appendStart))
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, err
	}
	if size <= appendStart {
		return buf, nil
	}
	all := make([]byte, size)
	n := copy(all, buf)
	_, err := io.ReadFull(r, all[n:])
	return all, err
}
