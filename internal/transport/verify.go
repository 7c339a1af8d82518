package transport

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/queue"
)

type rowsQuery struct {
	Cursor string    `cbor:"1,keyasint,omitempty"`
	Since  time.Time `cbor:"2,keyasint"`
}

type rowsAnswer struct {
	Checked int     `cbor:"1,keyasint"`
	Open    int     `cbor:"2,keyasint"`
	Wrong   []wrong `cbor:"3,keyasint,omitempty"`
	Cursor  string  `cbor:"4,keyasint,omitempty"`
}

// wrong is a row that says something else than the mailbox, the report or the
// server it names.
type wrong struct {
	ID      mail.TraceID `cbor:"1,keyasint"`
	Row     uint16       `cbor:"2,keyasint"`
	Address string       `cbor:"3,keyasint"`
	What    string       `cbor:"4,keyasint"`
}

// verifyRows compares some rows of this server's messages with what is there:
// the mailbox that has the message, the report that was made of it, the server
// that holds its copy.
func (m *Mover) verifyRows(ctx context.Context, q rowsQuery) (a rowsAnswer, err error) {
	rows, cursor, err := m.queue.Find(queue.Filter{From: q.Since, Cursor: q.Cursor})
	if err != nil {
		return a, err
	}
	a.Cursor = cursor
	var msg queue.Message
	for _, r := range rows {
		if r.Server != "" {
			continue // a copy: its own server answers for it
		}
		if msg.ID != r.ID {
			if msg, _, err = m.queue.Message(r.ID); err != nil {
				continue // forgotten meanwhile
			}
		}
		what, err := m.verifyRow(ctx, msg, r)
		if err != nil {
			return a, fmt.Errorf("verify %s for %s: %w", r.ID, r.Address, err)
		}
		a.Checked++
		if !r.State.Finished() {
			a.Open++
		}
		if what != "" {
			a.Wrong = append(a.Wrong, wrong{r.ID, r.N, r.Address, what})
		}
	}
	return a, nil
}

func (m *Mover) verifyRow(ctx context.Context, msg queue.Message, r queue.RecipientRow) (string, error) {
	switch r.State {
	case queue.StateDelivered:
		if msg.Identity == ([32]byte{}) {
			return "", nil
		}
		_, there, err := m.deps.Delivered(ctx, r.Mailbox, msg.Identity)
		if kind.Is(err, kind.NotFound) {
			return "", nil // the mailbox was removed
		}
		if err != nil || there {
			return "", err
		}
		return fmt.Sprintf("delivered to mailbox %s of %s, which does not know of it", r.Mailbox.ID, r.Mailbox.Database), nil
	case queue.StateReturned:
		if r.Child == (mail.TraceID{}) {
			return "", nil // nobody to tell
		}
		if there, err := m.anywhere(ctx, r.Child); err != nil || there {
			return "", err
		}
		return fmt.Sprintf("returned with report %s, which no server has", r.Child), nil
	case queue.StateTaken:
		if msg.By == "" {
			return "", nil
		}
		_, err := ask[idQuery, messageAnswer](ctx, m, msg.By, askMessage, idQuery{r.ID})
		if kind.Is(err, kind.NotFound) {
			return fmt.Sprintf("taken over by %s, which does not know of it", msg.By), nil
		}
		return "", err
	}
	if r.State.Finished() || msg.Shadow == "" {
		return "", nil
	}
	_, err := ask[idQuery, messageAnswer](ctx, m, msg.Shadow, askMessage, idQuery{r.ID})
	if kind.Is(err, kind.NotFound) {
		// It may have ended, or moved to another server, while it was looked at.
		now, _, merr := m.queue.Message(r.ID)
		if merr == nil && now.Finished.IsZero() && now.Shadow == msg.Shadow {
			return fmt.Sprintf("unfinished, and %s holds no copy", msg.Shadow), nil
		}
		return "", nil
	}
	if kind.Is(err, kind.Busy) {
		return "", nil // that server is away; the copy is made anew elsewhere
	}
	return "", err
}

// anywhere tells whether some server knows a message.
func (m *Mover) anywhere(ctx context.Context, id mail.TraceID) (bool, error) {
	if _, _, err := m.queue.Message(id); err == nil {
		return true, nil
	}
	answers, err := askAll[idQuery, messageAnswer](ctx, m, "", askMessage, idQuery{id})
	if err != nil {
		return false, err
	}
	var away error
	for _, a := range answers {
		switch {
		case a.Err == nil:
			return true, nil
		case !kind.Is(a.Err, kind.NotFound):
			away = fmt.Errorf("ask %s: %w", a.Server, a.Err)
		}
	}
	return false, away
}
