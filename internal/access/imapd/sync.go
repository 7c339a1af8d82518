package imapd

import (
	"context"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// pollWait bounds how long the answer to a command that is done waits for news
// of others; they are told later then.
const pollWait = 3 * time.Second

// idleRetry is the pause before IDLE asks a store again that was busy or failed.
const idleRetry = time.Second

// Poll implements imapserver.Session. A store that does not answer is no
// reason to refuse a command that is done: it is asked again at the next.
func (s *session) Poll(w *imapserver.UpdateWriter, allowExpunge, ask bool) error {
	if s.sel == nil {
		return nil
	}
	select {
	case <-s.sel.watch.C():
		s.sel.heard()
	default:
	}
	wait := min(pollWait, s.srv.cfg.WaitTimeout.Std())
	if ask || s.sel.owes {
		s.sel.dirty, wait = true, s.srv.cfg.WaitTimeout.Std()
	}
	ctx, cancel := context.WithTimeout(s.srv.ctx, wait)
	defer cancel()
	return s.sync(ctx, w, allowExpunge)
}

// Idle implements imapserver.Session.
func (s *session) Idle(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	if s.sel == nil {
		<-stop
		return nil
	}
	s.sel.dirty = true
	for {
		if err := s.idleSync(w, stop); err != nil {
			return err
		}
		var again <-chan time.Time
		if s.sel.dirty {
			again = time.After(idleRetry)
		}
		select {
		case <-stop:
			return nil
		case <-again:
		case <-s.sel.watch.C():
			s.sel.heard()
		}
	}
}

// idleSync tells what is new, unless the client ends IDLE meanwhile.
func (s *session) idleSync(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	ctx, cancel := s.wait()
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() { // lives as long as this call
		select {
		case <-stop:
			cancel()
		case <-ended:
		}
	}()
	if err := s.sync(ctx, w, true); err != nil {
		return err
	}
	return w.Flush()
}

// sync tells the client what changed since it was last told. Only errors of
// the connection are returned; what the store could not tell stays dirty.
func (s *session) sync(ctx context.Context, w *imapserver.UpdateWriter, allowExpunge bool) error {
	sel := s.sel
	var changed []mail.Message
	if sel.dirty {
		ch, err := s.changes(ctx)
		switch {
		case kind.Is(err, kind.NotFound) || err == nil && (ch.Gone || ch.Folder.UIDValidity != sel.validity):
			w.Bye("The selected mailbox was deleted")
			sel.dirty = false
			return nil
		case err != nil:
			if !kind.Is(err, kind.Busy) {
				s.log.Error("imap session cannot learn what changed", "err", err)
			}
		default:
			sel.dirty, sel.owes = false, false
			sel.gone = unionRanges(sel.gone, sel.uids.Intersect(unionRanges(ch.Vanished)))
			changed = ch.Messages
			defer sel.told(ch.Folder.HighestModSeq)
		}
	}
	if allowExpunge {
		if err := s.tellGone(w.WriteExpunge); err != nil {
			return err
		}
	}
	return s.tell(w, changed)
}

// heard takes news of the watch: what the client did itself is none.
func (sel *selected) heard() {
	if sel.watch.Newest() > sel.since {
		sel.dirty = true
	}
}

// told moves on the mark up to which the client knows all.
func (sel *selected) told(m mail.ModSeq) {
	sel.since = max(sel.since, m)
	sel.own = nil
}

// tellGone writes an EXPUNGE for all that left, from the end so that the
// numbers of those still to come stay as they are.
func (s *session) tellGone(write func(seq uint32) error) error {
	sel := s.sel
	for i := len(sel.gone) - 1; i >= 0; i-- {
		r := sel.gone[i]
		first, last := sel.uids.Seq(r.First), sel.uids.Seq(r.Last)
		for seq := last; seq >= first && seq > 0; seq-- {
			if err := write(seq); err != nil {
				return err
			}
		}
	}
	sel.uids.Remove(sel.gone)
	sel.gone = nil
	return nil
}

// tell writes EXISTS for messages the client does not know and FETCH for those
// whose flags somebody else changed.
func (s *session) tell(w *imapserver.UpdateWriter, changed []mail.Message) error {
	sel := s.sel
	before := sel.uids.Len()
	for _, m := range changed {
		if m.UID >= sel.uids.next {
			sel.uids.Append(m.UID)
		}
	}
	if n := sel.uids.Len(); n != before {
		if err := w.WriteNumMessages(n); err != nil {
			return err
		}
	}
	for _, m := range changed {
		seq := sel.uids.Seq(m.UID)
		if seq == 0 || seq > before || m.ModSeq <= sel.since || sel.own.has(m.ModSeq) || holds(sel.gone, m.UID) {
			continue
		}
		if err := w.WriteMessageFlags(seq, imap.UID(m.UID), wireFlags(m)); err != nil {
			return err
		}
	}
	return nil
}

// changes asks the store what changed. Where it does not remember that far
// back, the whole list is compared.
func (s *session) changes(ctx context.Context) (mail.Changes, error) {
	sel, store := s.sel, s.srv.deps.Store
	ch, err := store.Changes(ctx, s.account.Mailbox, mail.ChangesRequest{Folder: sel.folder, Since: sel.since})
	if err != nil || !ch.Reset || ch.Gone {
		return ch, err
	}
	now, err := s.load(ctx, sel.folder)
	if err != nil {
		return ch, err
	}
	missing := uidList{runs: append([]uidRun(nil), sel.uids.runs...)}
	missing.Remove(now.All())
	ch.Vanished, ch.Messages = missing.All(), nil
	return ch, s.pages(ctx, mail.MessagesRequest{Folder: sel.folder, ChangedSince: sel.since}, func(m mail.Message) error {
		ch.Messages = append(ch.Messages, m)
		return nil
	})
}

// pages goes through messages page by page.
func (s *session) pages(ctx context.Context, r mail.MessagesRequest, f func(mail.Message) error) error {
	if r.UIDs == nil {
		r.UIDs = []mail.UIDRange{{First: 1, Last: 1<<32 - 1}}
	}
	for {
		page, err := s.srv.deps.Store.Messages(ctx, s.account.Mailbox, r)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if err := f(m); err != nil {
				return err
			}
		}
		n := len(page.Messages)
		if !page.More || n == 0 {
			return nil
		}
		if r.UIDs = after(r.UIDs, page.Messages[n-1].UID); len(r.UIDs) == 0 {
			return nil
		}
	}
}

// after cuts off all up to and including u.
func after(set []mail.UIDRange, u mail.UID) []mail.UIDRange {
	for i, r := range set {
		if r.Last > u {
			set = append([]mail.UIDRange(nil), set[i:]...)
			set[0].First = max(set[0].First, u+1)
			return set
		}
	}
	return nil
}
