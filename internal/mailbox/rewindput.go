package mailbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// transfers moves and copies.
func (x *rewindBox) transfers(ctx context.Context) error {
	if x.v.o.DryRun {
		for _, ws := range x.moves {
			for _, w := range ws {
				if !sameFlags(w.m, w.live) {
					x.row.Flags++
				}
			}
		}
		return nil
	}
	order := slices.SortedFunc(maps.Keys(x.moves), func(a, b transfer) int { return cmp.Compare(b2i(a.move), b2i(b.move)) })
	for _, t := range order { // copies first: what they are made of may be about to move
		ws := x.moves[t]
		slices.SortFunc(ws, func(a, b owed) int { return cmp.Compare(a.live.uid, b.live.uid) })
		for part := range slices.Chunk(ws, rewindBatch) {
			if err := x.transfer(ctx, t, part); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *rewindBox) transfer(ctx context.Context, t transfer, ws []owed) error {
	by := map[mail.UID][]owed{}
	for _, w := range ws {
		by[w.live.uid] = append(by[w.live.uid], w)
	}
	for len(by) > 0 { // more than once where one message is copied several times
		var uids []mail.UID
		for u := range by {
			uids = append(uids, u)
		}
		slices.Sort(uids)
		var done mail.Copied
		err := x.into(ctx, t.target, func(name string) (err error) {
			done, err = x.v.k.Client().Copy(ctx, x.at, mail.CopyRequest{Folder: t.from, UIDs: ranges(uids), Target: name, Move: t.move})
			return err
		})
		if kind.Is(err, kind.Full) {
			for _, left := range by {
				x.row.Moved, x.row.Refused, x.row.Result = x.row.Moved-len(left), x.row.Refused+len(left), err.Error()
			}
			return nil
		}
		if err != nil {
			return err
		}
		to := map[mail.UID]mail.UID{}
		for i, u := range done.Source {
			to[u] = done.Target[i]
		}
		for u, left := range by {
			if w := left[0]; to[u] == 0 {
				x.row.Moved-- // removed meanwhile
			} else if !sameFlags(w.m, w.live) {
				k := flagging{folder: t.target.ID, flags: w.m.Flags, words: strings.Join(w.m.Keywords, " "), moved: true}
				x.flags[k] = append(x.flags[k], to[u])
			}
			if by[u] = left[1:]; len(by[u]) == 0 {
				delete(by, u)
			}
		}
	}
	return nil
}

// ranges joins sorted UIDs.
func ranges(uids []mail.UID) []mail.UIDRange {
	var out []mail.UIDRange
	for _, u := range uids {
		if n := len(out); n > 0 && out[n-1].Last+1 >= u {
			out[n-1].Last = u
			continue
		}
		out = append(out, mail.UIDRange{First: u, Last: u})
	}
	return out
}

// setFlags gives messages the flags they had. One whose flags were changed while
// the mailbox was gone through is left as its user wants it.
func (x *rewindBox) setFlags(ctx context.Context) error {
	for f, uids := range x.flags {
		if x.v.o.DryRun {
			x.row.Flags += len(uids)
			continue
		}
		slices.Sort(uids)
		for part := range slices.Chunk(uids, rewindBatch) {
			c := mail.FlagsChange{Folder: f.folder, UIDs: ranges(part), Op: "set", Flags: f.flags, Keywords: strings.Fields(f.words)}
			if !f.moved {
				c.UnchangedSince = &x.modseq
			}
			done, err := x.v.k.Client().ChangeFlags(ctx, x.at, c)
			if err != nil {
				return err
			}
			x.row.Flags += len(done.Messages)
		}
	}
	return nil
}

// forget has the mailbox forget deliveries whose message is gone.
func (x *rewindBox) forget(ctx context.Context) error {
	for i := range x.live {
		delete(x.fresh, x.live[i].email)
	}
	var all [][32]byte
	for _, ids := range x.fresh {
		all = append(all, ids...)
	}
	if x.v.o.DryRun {
		x.row.Again = len(all)
		return nil
	}
	slices.SortFunc(all, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	for part := range slices.Chunk(all, rewindBatch) {
		n, err := send(ctx, x.v.k, opForget, x.at, forgetRequest{part})
		if err != nil {
			return err
		}
		x.row.Again += n
	}
	return nil
}

// putBack puts back what is missing: from the past, but for what an earlier run, or
// somebody else, put there already.
func (x *rewindBox) putBack(ctx context.Context) error {
	alike := map[likeness][]*liveMail{}
	for _, w := range x.missing {
		alike[likeness{w.m.Size, w.m.InternalDate}] = nil
	}
	for i := range x.live {
		l := &x.live[i]
		k := likeness{l.size, l.date}
		if _, ok := alike[k]; ok && !l.claimed {
			alike[k] = append(alike[k], l)
		}
	}
	for _, w := range x.missing {
		if err := x.putOne(ctx, w, alike[likeness{w.m.Size, w.m.InternalDate}]); err != nil {
			return fmt.Errorf("put a message of %d bytes into %s: %w", w.m.Size, x.nameOf(w.target), err)
		}
		x.v.tell(ctx, "%s: %d of %d messages put back", x.row.Mailbox, x.row.Back, len(x.missing))
	}
	return nil
}

func (x *rewindBox) putOne(ctx context.Context, w owed, alike []*liveMail) error {
	alike = slices.DeleteFunc(slices.Clone(alike), func(l *liveMail) bool { return l.claimed })
	if x.v.o.DryRun && len(alike) == 0 {
		x.row.Back, x.row.Bytes = x.row.Back+1, x.row.Bytes+w.m.Size
		return nil
	}
	if p, ok := x.put[w.m.Email]; ok {
		return x.again(ctx, w, p)
	}
	body, err := x.v.past.Body(ctx, w.m)
	if kind.Is(err, kind.NotFound) || kind.Is(err, kind.Corrupt) {
		if _, gone := x.v.past.ask(ctx, pastRequest{Do: "state"}); gone != nil { // the past itself
			return gone
		}
		x.row.Lost++
		x.row.Result = "lost: " + err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(alike, func(a, b *liveMail) int { // those in the right folder first
		return cmp.Compare(b2i(a.folder != w.target.ID), b2i(b.folder != w.target.ID))
	})
	sum := sha256.Sum256(body)
	for _, l := range alike {
		same, err := x.holds(ctx, l, sum)
		if err != nil {
			return err
		}
		switch {
		case same && l.folder == w.target.ID:
			x.claim(w, l)
			return nil
		case same:
			x.take(w, l)
			return nil
		}
	}
	if x.v.o.DryRun {
		x.row.Back, x.row.Bytes = x.row.Back+1, x.row.Bytes+w.m.Size
		return nil
	}
	var done mail.Appended
	err = x.into(ctx, w.target, func(name string) (err error) {
		done, err = x.v.k.Client().Append(ctx, x.at, mail.Append{Folder: name, Flags: w.m.Flags, Keywords: w.m.Keywords, InternalDate: w.m.InternalDate, Body: body, Unless: w.m.Email})
		return err
	})
	if kind.Is(err, kind.Exists) {
		x.row.Result = "a message came back meanwhile: run the command again"
		return nil
	}
	if err != nil {
		return x.noRoom(err)
	}
	x.put[w.m.Email] = spot{w.target.ID, done.UID}
	x.row.Back, x.row.Bytes = x.row.Back+1, x.row.Bytes+w.m.Size
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// again puts an email back once more, that was in several folders.
func (x *rewindBox) again(ctx context.Context, w owed, p spot) error {
	var done mail.Copied
	err := x.into(ctx, w.target, func(name string) (err error) {
		done, err = x.v.k.Client().Copy(ctx, x.at, mail.CopyRequest{Folder: p.folder, UIDs: []mail.UIDRange{{First: p.uid, Last: p.uid}}, Target: name})
		return err
	})
	if err != nil {
		return x.noRoom(err)
	}
	if len(done.Target) == 0 {
		return nil // removed meanwhile
	}
	x.row.Back++
	k := flagging{folder: w.target.ID, flags: w.m.Flags, words: strings.Join(w.m.Keywords, " "), moved: true}
	x.flags[k] = append(x.flags[k], done.Target[0])
	return nil
}

// noRoom counts a message that does not fit.
func (x *rewindBox) noRoom(err error) error {
	if !kind.Is(err, kind.Full) {
		return err
	}
	x.row.Refused++
	x.row.Result = err.Error()
	return nil
}

// holds tells whether a live message has these bytes.
func (x *rewindBox) holds(ctx context.Context, l *liveMail, want [32]byte) (bool, error) {
	sum := x.bodies[l.blob]
	if sum == nil {
		b, err := x.v.k.wholeBody(ctx, x.at, l.blob, l.size)
		if kind.Is(err, kind.NotFound) || kind.Is(err, kind.Corrupt) {
			return false, nil // removed meanwhile, or not to be compared
		}
		if err != nil {
			return false, err
		}
		sum = sum256(b)
		x.bodies[l.blob] = sum
	}
	return *sum == want, nil
}
