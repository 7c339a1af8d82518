package mailbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// A database is brought back to a moment by ordinary changes (decision 0029): what
// a copy shows of the moment is compared with each live mailbox, and what differs is
// put right there. So the log goes forward, copies stay in sync, clients see messages
// come, move and change, and a run that was broken off is gone on with by another.

// Rewind is the order to bring the mailboxes of a database back to a moment.
type Rewind struct {
	Database org.DatabaseName
	At       time.Time
	From     org.ServerName // whose copy is asked; empty for the one with the least to replay
	DryRun   bool
}

// Rewound is a mailbox, and how many of its messages are concerned.
type Rewound struct {
	Mailbox string        `json:"mailbox" col:"MAILBOX"`
	ID      org.MailboxID `json:"id" col:"-"`
	Then    int           `json:"then" col:"THEN"`       // were there at the moment
	Back    int           `json:"back" col:"BACK"`       // are gone and put back from the past
	Bytes   int64         `json:"bytes" col:"BYTES"`     // of those
	Moved   int           `json:"moved" col:"MOVED"`     // are elsewhere in the mailbox and taken to where they were
	Flags   int           `json:"flags" col:"FLAGS"`     // get the flags they had
	Folders int           `json:"folders" col:"FOLDERS"` // folders that are made again, named or subscribed as they were
	Later   int           `json:"later" col:"LATER"`     // came since and stay
	Again   int           `json:"again" col:"AGAIN"`     // were delivered since and destroyed: Safety Net delivers them again
	Lost    int           `json:"lost" col:"LOST"`       // content is not there any more
	Refused int           `json:"refused" col:"REFUSED"` // did not fit into the mailbox
	Result  string        `json:"result" col:"RESULT"`
}

// changes tells whether there is anything to do, or to tell.
func (r *Rewound) changes() bool {
	return r.Back+r.Moved+r.Flags+r.Folders+r.Again+r.Lost+r.Refused > 0 || r.Result != ""
}

func (r *Rewound) add(o Rewound) {
	r.Then, r.Back, r.Bytes, r.Moved, r.Flags = r.Then+o.Then, r.Back+o.Back, r.Bytes+o.Bytes, r.Moved+o.Moved, r.Flags+o.Flags
	r.Folders, r.Later, r.Again, r.Lost, r.Refused = r.Folders+o.Folders, r.Later+o.Later, r.Again+o.Again, r.Lost+o.Lost, r.Refused+o.Refused
}

// rewoundRows bounds the answer; the sum counts all.
const rewoundRows = 1000

// RewindResult is what Rewind did, or would.
type RewindResult struct {
	Server    org.ServerName // whose copy showed the moment
	Mailboxes []Rewound      // those with something to do, at most 1,000
	Sum       Rewound        // of all
	Done      int            // mailboxes that were looked at
	Changed   int            // and those with something to do
	Failed    int            // and those of which not all could be put right
}

// rewind is one under way.
type rewind struct {
	k    *Keeper
	o    Rewind
	past *Past
	turn *rewindTurn            // nil in a dry run
	then map[org.MailboxID]bool // mailboxes of the past that were not looked at yet
	out  RewindResult
	told time.Time
}

// Rewind makes the mailboxes of a database hold what they held at a moment, as they held it. What
// came since stays, and deliveries since whose message is gone are forgotten, so
// that Safety Net can bring them again; asking it is left to the caller. It may be
// repeated: what is right already is left alone.
// Errors: NotFound where no copy goes back so far, Busy while another one is under
// way or the database cannot be reached.
func (k *Keeper) Rewind(ctx context.Context, o Rewind) (RewindResult, error) {
	v := &rewind{k: k, o: o}
	ctx = perCall{ctx}
	if m, ok := k.group.View().Mount(o.Database); ok && m.Active == "" {
		return v.out, kind.WithHint(kind.Errorf(kind.Busy, "database %s is dismounted", o.Database), "postern database mount "+string(o.Database))
	}
	if !o.DryRun {
		var err error
		if v.turn, ctx, err = k.takeRewind(ctx, o); err != nil {
			return v.out, err
		}
		defer v.turn.leave()
	}
	err := v.run(ctx)
	if lost := v.turn.lost(); err != nil && lost != nil {
		err = lost
	}
	return v.out, err
}

// run goes through all mailboxes.
func (v *rewind) run(ctx context.Context) error {
	k, o := v.k, v.o
	live, err := send(ctx, k, opMailboxes, org.MailboxRef{Database: o.Database}, none{})
	if err != nil {
		return err
	}
	command.Progress(ctx, "looking for a copy of %s that shows %s", o.Database, o.At.UTC().Format(time.RFC3339))
	v.past, err = k.OpenPast(ctx, o.Database, o.At, o.From, func(done, total int64) {
		v.tell(ctx, "replaying log: %d MiB of at most %d", done>>20, total>>20)
	})
	if err != nil {
		return err
	}
	defer v.past.Close()
	v.out.Server = v.past.Server
	ids, err := v.past.Mailboxes(ctx)
	if err != nil {
		return err
	}
	v.then = make(map[org.MailboxID]bool, len(ids))
	for _, id := range ids {
		v.then[id] = true
	}
	command.Progress(ctx, "the copy on %s shows it: %d mailboxes then, %d now", v.past.Server, len(ids), len(live))
	for i, b := range live {
		err := ctx.Err()
		if err == nil {
			err = v.turn.lost()
		}
		if err == nil {
			err = v.box(ctx, b)
		}
		if err != nil {
			return fmt.Errorf("mailbox %d of %d, %s: %w", i+1, len(live), b.ID, err)
		}
		v.tell(ctx, "%d of %d mailboxes, %d messages put back so far", i+1, len(live), v.out.Sum.Back)
	}
	v.removed()
	if !o.DryRun {
		k.deps.Events.Emit(evRewound, "the mailboxes of %s hold again what they held at %s, from the copy on %s: %d messages put back, %d moved, %d flags, %d folders, %d mailboxes not wholly",
			o.Database, o.At.UTC().Format(time.RFC3339), v.out.Server, v.out.Sum.Back, v.out.Sum.Moved, v.out.Sum.Flags, v.out.Sum.Folders, v.out.Failed)
	}
	return nil
}

// tell tells how far it is, not more than once a second.
func (v *rewind) tell(ctx context.Context, format string, args ...any) {
	if time.Since(v.told) >= time.Second {
		v.told = time.Now()
		command.Progress(ctx, format, args...)
	}
}

// name is what people call a mailbox; false for one that nobody has any more.
func (v *rewind) name(b boxRow) (string, bool) {
	if v.k.deps.Named == nil {
		return b.ID.String(), true
	}
	a, ok := v.k.deps.Named(b.Organization, b.ID)
	if !ok {
		return b.ID.String(), false
	}
	return a.String(), true
}

// box brings one mailbox back. What goes wrong with it alone is told in its row.
func (v *rewind) box(ctx context.Context, b boxRow) error {
	was := v.then[b.ID]
	delete(v.then, b.ID)
	name, ok := v.name(b)
	if !ok {
		if b.Organization != "" { // else it is one of probes
			v.note(Rewound{Mailbox: name, ID: b.ID, Result: "is left alone: it is of no one in the directory any more"})
		}
		return nil
	}
	x := newRewindBox(v, org.MailboxRef{ID: b.ID, Database: v.o.Database}, name)
	err := x.run(ctx, was)
	if kind.Is(err, kind.NotFound) {
		if _, gone := v.k.Client().Usage(ctx, x.at); kind.Is(gone, kind.NotFound) {
			return nil // removed meanwhile
		}
	}
	if err != nil {
		if err := v.fatal(ctx, err); err != nil {
			v.note(x.row)
			return err
		}
		v.out.Failed++
		x.row.Result = "not all of it: " + err.Error()
	}
	v.note(x.row)
	return nil
}

// fatal is err where it concerns more than one mailbox.
func (v *rewind) fatal(ctx context.Context, err error) error {
	if ctx.Err() != nil || kind.Is(err, kind.Busy) {
		return err
	}
	if _, gone := v.past.ask(ctx, pastRequest{Do: "state"}); gone != nil {
		return fmt.Errorf("%w; the past: %w", err, gone)
	}
	return nil
}

// note adds a mailbox to the answer.
func (v *rewind) note(r Rewound) {
	v.out.Done++
	v.out.Sum.add(r)
	if !r.changes() {
		return
	}
	v.out.Changed++
	if len(v.out.Mailboxes) < rewoundRows {
		v.out.Mailboxes = append(v.out.Mailboxes, r)
	}
}

// removed tells of mailboxes that are not in the database any more.
func (v *rewind) removed() {
	var ids []org.MailboxID
	for id := range v.then {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b org.MailboxID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		v.note(Rewound{Mailbox: id.String(), ID: id, Result: "is not in this database any more"})
	}
}

// byName finds a folder by its name.
func byName(all []mail.Folder, name string) (mail.Folder, bool) {
	i := slices.IndexFunc(all, func(f mail.Folder) bool { return f.Name == name })
	if i < 0 {
		return mail.Folder{}, false
	}
	return all[i], true
}
