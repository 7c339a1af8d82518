package bubble

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// read compares what any server shows with what was confirmed, until ctx ends.
func (c *client) read(ctx context.Context) {
	for rest(ctx, c.l.w.pace(c.rnd.between(50*time.Millisecond, 600*time.Millisecond))) {
		b := c.l.boxes[c.rnd.intN(len(c.l.boxes))]
		folder := folders[c.rnd.intN(len(folders))]
		p := c.l.w.links.answers(c.l.w.order[c.rnd.intN(len(c.l.w.order))].name)
		if p == nil {
			continue
		}
		c.l.mu.Lock()
		before := b.shown[folder]
		low := b.modseq
		c.l.mu.Unlock()
		began := time.Now()
		rctx, cancel := context.WithTimeout(p.ctx, c.rnd.between(200*time.Millisecond, 3*time.Second))
		all, f, err := list(rctx, p.keeper.Client(), b, folder)
		cancel()
		// Without quorum an answer may be old: that is a promise too (G10).
		if err != nil || p.over() || !c.l.w.quorumSince(began) {
			continue
		}
		c.compare(b, folder, began, before, low, all, f)
	}
}

// compare judges one answer to a reader.
func (c *client) compare(b *box, folder string, began time.Time, before mail.Folder, low mail.ModSeq, all []mail.Message, f mail.Folder) {
	w := c.l.w
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.reads++
	if f.UIDValidity != before.UIDValidity && before.UIDValidity != 0 {
		w.violate("G4: UIDVALIDITY of %s of %s went from %d to %d", folder, b.ref.ID, before.UIDValidity, f.UIDValidity)
	}
	if f.UIDNext < before.UIDNext || f.HighestModSeq < before.HighestModSeq {
		w.violate("G4: a reader of %s of %s was shown next UID %d, modification %d, and before that %d, %d", folder, b.ref.ID, f.UIDNext, f.HighestModSeq, before.UIDNext, before.HighestModSeq)
	}
	if now := b.shown[folder]; f.HighestModSeq > now.HighestModSeq || f.UIDNext > now.UIDNext {
		b.shown[folder] = f
	}
	shown := map[mail.UID]mail.Message{}
	for _, m := range all {
		shown[m.UID] = m
		if id := b.named[folder][m.UID]; id != "" && m.Summary != nil && m.Summary.Envelope.MessageID != id {
			w.violate("G4: UID %d of %s was %s and is %s", m.UID, folder, id, m.Summary.Envelope.MessageID)
		}
	}
	for _, m := range c.l.sorted() {
		if m.box != b || m.asked || !m.since.Before(began) || m.since.IsZero() {
			continue // it may be either way
		}
		got, there := shown[m.uid]
		switch {
		case m.folder != folder:
		case m.gone && there:
			w.violate("G3: a reader was shown %s, which was expunged before", m.id)
		case !m.gone && !there:
			w.violate("G3: a reader of %s was not shown %s (UID %d), confirmed %s before it asked", folder, m.id, m.uid, began.Sub(m.since))
		case !m.gone && got.Flags != m.flags:
			w.violate("G3: a reader was shown flags %d of %s, confirmed are %d", got.Flags, m.id, m.flags)
		}
	}
}

// check looks whether the promises were kept, when everything is whole again.
func (w *world) check() {
	w.compareAll("at the end")
	w.verify()
	if w.plan.Seed%4 != 0 {
		return
	}
	// Every copy in turn is asked.
	for i := range w.plan.Databases {
		db := databaseName(i)
		for _, s := range w.agreed.mount(db).InSync {
			if w.agreed.mount(db).Active == s {
				continue
			}
			w.give("database move", fmt.Sprintf(`{"database":%q,"to":%q}`, db, s), s)
			if !w.settled(time.Minute) {
				return
			}
			w.compareAll("with " + string(db) + " on " + string(s))
		}
	}
}

// verify compares the copies with each other, bodies included.
func (w *world) verify() {
	p := w.links.answers(w.order[w.rnd.intN(len(w.order))].name)
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 2*time.Minute)
	defer cancel()
	if _, err := p.command(ctx, "copy verify", `{"bodies":true}`); err != nil {
		w.violate("G1: %v", err)
	}
}

// found is a message somewhere.
type found struct {
	box    *box
	folder string
	m      mail.Message
}

// compareAll compares every mailbox with the ledger.
func (w *world) compareAll(when string) {
	l := w.ledger
	c := &client{l: l, rnd: newRandom(w.plan.Seed, 11)}
	where := map[string][]found{}
	for _, b := range l.boxes {
		for _, f := range folders {
			var all []mail.Message
			if !c.insist(func(ctx context.Context, s mail.Store) (err error) {
				all, _, err = list(ctx, s, b, f)
				return err
			}) {
				return
			}
			for _, m := range all {
				id := m.Summary.Envelope.MessageID
				where[id] = append(where[id], found{b, f, m})
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, at := range where {
		if l.all[id] == nil {
			w.violate("G2: %s: %s is there and nobody sent it", when, id)
		}
		if len(at) > 1 {
			w.violate("G2: %s: %s is there %d times: %s", when, id, len(at), places(at))
		}
	}
	for _, m := range l.sorted() {
		at := where[m.id]
		switch {
		case m.asked:
		case m.gone && len(at) > 0:
			w.violate("G2: %s: %s was expunged and is there: %s", when, m.id, places(at))
		case m.gone:
		case len(at) == 0:
			w.violate("G1: %s: %s (UID %d in %s of %s), confirmed, is lost", when, m.id, m.uid, m.folder, name(m.box.ref))
		case at[0].m.UID != m.uid || at[0].folder != m.folder || at[0].box != m.box || at[0].m.Flags != m.flags:
			w.violate("G1: %s: %s is at %s, confirmed is UID %d in %s with flags %d", when, m.id, places(at), m.uid, m.folder, m.flags)
		}
	}
}

func name(r org.MailboxRef) string { return fmt.Sprintf("%s/%s", r.Database, r.ID.String()[:4]) }

func places(at []found) string {
	out := ""
	for _, f := range at {
		out += fmt.Sprintf(" [%s %s UID %d flags %d modseq %d]", name(f.box.ref), f.folder, f.m.UID, f.m.Flags, f.m.ModSeq)
	}
	return out[1:]
}
