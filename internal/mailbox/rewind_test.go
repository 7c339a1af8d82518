package mailbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// content is what a mailbox holds, without the numbers that a change gives.
func content(t *testing.T, ctx context.Context, s mail.Store, k *Keeper) string {
	t.Helper()
	fs, err := s.Folders(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range fs {
		out = append(out, fmt.Sprintf("%s %s %v", f.Name, f.SpecialUse, f.Subscribed))
		ms, err := s.Messages(ctx, at, mail.MessagesRequest{Folder: f.ID, Summaries: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms.Messages {
			raw, err := k.wholeBody(ctx, at, m.Blob, m.Size)
			if err != nil || int64(len(raw)) != m.Size {
				t.Fatalf("%d bytes of %d, %v", len(raw), m.Size, err)
			}
			out = append(out, fmt.Sprintf("%s: %s %d %d %s", f.Name, m.Summary.Envelope.Subject, m.InternalDate, m.Flags, m.Keywords))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// uids are the UIDs of a mailbox's folders by identity, with what they stand for.
func uids(t *testing.T, ctx context.Context, s mail.Store, seen map[string]string) {
	t.Helper()
	fs, err := s.Folders(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		ms, err := s.Messages(ctx, at, mail.MessagesRequest{Folder: f.ID, Summaries: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms.Messages {
			k := fmt.Sprintf("%d/%d", f.UIDValidity, m.UID)
			if was, ok := seen[k]; ok && was != m.Summary.Envelope.Subject {
				t.Errorf("%s was %q and is %q", k, was, m.Summary.Envelope.Subject)
			}
			seen[k] = m.Summary.Envelope.Subject
		}
	}
}

// ruined is a mailbox of which a picture was taken before it was ruined.
type ruined struct {
	k      *keeper
	then   time.Time
	before string
	seen   map[string]string // what UIDs stood for
}

// ruin makes a mailbox and destroys it in all ways a client has.
func ruin(t *testing.T, ctx context.Context) *ruined {
	t.Helper()
	k := keepsPast(t, newDisks())
	s := k.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(nil, s.Setup(ctx, at, mail.MailboxSetup{}))
	folder := func(op, name, to string) {
		t.Helper()
		must(s.ChangeFolder(ctx, at, mail.FolderChange{Op: op, Name: name, NewName: to}))
	}
	find := func(name string) mail.FolderID {
		t.Helper()
		fs, err := s.Folders(ctx, at)
		must(nil, err)
		f, ok := byName(fs, name)
		if !ok {
			t.Fatalf("no folder %s", name)
		}
		return f.ID
	}
	folder("create", "Work", "")
	folder("create", "Work/Old", "")
	folder("subscribe", "Work", "")
	folder("create", "Plans", "")
	for i := range 12 {
		to := []string{"INBOX", "Work", "Work/Old", "Plans"}[i%4]
		must(s.Append(ctx, at, mail.Append{Folder: to, Body: big(i), InternalDate: int64(i+1) * 1e15, Flags: mail.Flags(i % 4), Keywords: []string{"k"}[:i%2]}))
	}
	// One email in two folders, and one twice in one.
	must(s.Copy(ctx, at, mail.CopyRequest{Folder: find("Work"), UIDs: []mail.UIDRange{{First: 1, Last: 1}}, Target: "INBOX"}))
	must(s.Copy(ctx, at, mail.CopyRequest{Folder: find("Plans"), UIDs: []mail.UIDRange{{First: 1, Last: 1}}, Target: "Plans"}))
	if err := k.copy("DB01").takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	r := &ruined{k: k, then: time.Now(), before: content(t, ctx, s, k.Keeper), seen: map[string]string{}}
	uids(t, ctx, s, r.seen)
	<-time.After(2 * time.Millisecond)
	folder("rename", "Work", "Job")                                                                                                                 // with what is below
	folder("delete", "Plans", "")                                                                                                                   // with its messages
	folder("create", "Plans", "")                                                                                                                   // another one
	must(s.Copy(ctx, at, mail.CopyRequest{Folder: find("Job"), UIDs: []mail.UIDRange{{First: 1, Last: 2}}, Target: "Trash", Move: true}))           // one of them is in INBOX too
	must(s.Expunge(ctx, at, mail.Expunge{Folder: find("INBOX"), UIDs: []mail.UIDRange{{First: 1, Last: 2}}}))                                       // for good
	must(s.ChangeFlags(ctx, at, mail.FlagsChange{Folder: find("Job"), Op: "set", Flags: mail.Deleted, UIDs: []mail.UIDRange{{First: 3, Last: 3}}})) // by far
	must(s.ChangeFlags(ctx, at, mail.FlagsChange{Folder: find("Job/Old"), Op: "add", Keywords: []string{"x"}, UIDs: []mail.UIDRange{{First: 1, Last: 2}}}))
	must(s.Expunge(ctx, at, mail.Expunge{Folder: find("Job/Old"), UIDs: []mail.UIDRange{{First: 3, Last: 3}}}))
	folder("unsubscribe", "Work", "")
	k.copy("DB01").settleForTest(t)
	return r
}

// TestRewind: what was ruined is as it was, in one run or in several that were
// broken off; numbers are not used again for anything else.
func TestRewind(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, broken := range map[string]bool{"at once": false, "broken off at each step": true} {
		r := ruin(t, ctx)
		s := r.k.Client()
		order := Rewind{Database: "DB01", At: r.then}
		now := content(t, ctx, s, r.k.Keeper)
		dry := order
		dry.DryRun = true
		plan, err := r.k.Rewind(ctx, dry)
		if err != nil || content(t, ctx, s, r.k.Keeper) != now {
			t.Fatalf("%s: dry run: %v", name, err)
		}
		uids(t, ctx, s, r.seen)
		if broken {
			r.breakOff(t, ctx, order)
		}
		res, err := r.k.Rewind(ctx, order)
		if err != nil {
			t.Fatal(err)
		}
		uids(t, ctx, s, r.seen)
		if got := content(t, ctx, s, r.k.Keeper); got != r.before {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, r.before)
		}
		if p, d := plan.Sum, res.Sum; !broken && (p.Back != d.Back || p.Moved != d.Moved || p.Bytes < d.Bytes) || p.Then != 14 || d.Lost+d.Refused+d.Later != 0 {
			t.Errorf("%s: dry run %+v\ndone %+v", name, p, d)
		}
		res, err = r.k.Rewind(ctx, order)
		if err != nil || res.Changed != 0 || content(t, ctx, s, r.k.Keeper) != r.before {
			t.Errorf("%s: once more: %+v, %v", name, res, err)
		}
		r.k.stop()
	}
}

// breakOff begins runs that end after each of their steps.
func (r *ruined) breakOff(t *testing.T, ctx context.Context, order Rewind) {
	t.Helper()
	for last := range 5 {
		p, err := r.k.OpenPast(ctx, order.Database, order.At, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		x := newRewindBox(&rewind{k: r.k.Keeper, o: order, past: p}, at, "")
		for i, step := range []func(context.Context) error{x.deliveries, x.list, x.compare,
			func(ctx context.Context) error { x.find(); return x.putBack(ctx) }, x.transfers} {
			if i > last {
				break
			}
			if err := step(ctx); err != nil {
				t.Fatal(err)
			}
		}
		p.Close()
	}
}

// TestRewindRefuses: one at a time, nothing that no copy shows, and an end when
// its caller goes away.
func TestRewindRefuses(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := ruin(t, ctx)
	order := Rewind{Database: "DB01", At: r.then}
	now := content(t, ctx, r.k.Client(), r.k.Keeper)
	turn, _, err := r.k.takeRewind(ctx, order)
	if err != nil {
		t.Fatal(err)
	}
	inPlace := Recovery{From: at, To: at, At: r.then, InPlace: true}
	if _, err := r.k.Recover(ctx, inPlace); !kind.Is(err, kind.Busy) {
		t.Errorf("recover in place beside it: %v", err)
	}
	if _, err := r.k.Rewind(ctx, order); !kind.Is(err, kind.Busy) {
		t.Errorf("a second one: %v", err)
	}
	turn.leave()
	for _, bad := range []Rewind{{Database: "DB99", At: r.then}, {Database: "DB01", At: r.then.Add(-time.Hour)}, {Database: "DB01", At: r.then, From: "MBX9"}} {
		if _, err := r.k.Rewind(ctx, bad); !kind.Is(err, kind.NotFound) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	gone, leave := context.WithCancel(ctx)
	gone = command.WithProgress(gone, func(line string) {
		if strings.Contains(line, "shows it") {
			leave()
		}
	})
	if _, err := r.k.Rewind(gone, order); err == nil {
		t.Error("it went on although its caller was gone")
	}
	if got := content(t, ctx, r.k.Client(), r.k.Keeper); got != now {
		t.Errorf("something was changed: there is\n%s\nthere was\n%s", got, now)
	}
	// Too small a mailbox takes what fits.
	if err := r.k.Client().Setup(ctx, at, mail.MailboxSetup{Organization: org.OrganizationID(""), QuotaMessages: 12}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first one is closed", func() bool {
		res, err := r.k.Rewind(ctx, order)
		if kind.Is(err, kind.Busy) {
			return false
		}
		if err != nil || res.Sum.Refused == 0 || !strings.Contains(res.Mailboxes[0].Result, "12 messages are used") {
			t.Errorf("%+v, %v", res, err)
		}
		return true
	})
}

// TestRewindMovedMeanwhile: a message that its user moves while the mailbox is
// listed is not put back beside itself, and a mailbox that never rests is left.
func TestRewindMovedMeanwhile(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	k := keepsPast(t, newDisks())
	s := k.Client()
	if err := s.Setup(ctx, at, mail.MailboxSetup{}); err != nil {
		t.Fatal(err)
	}
	x := newRewindBox(&rewind{k: k.Keeper}, at, "")
	times := 0
	x.listed = func() {
		if times++; times == 1 {
			if _, err := s.Append(ctx, at, mail.Append{Folder: "INBOX", Body: big(1)}); err != nil {
				t.Error(err)
			}
		}
	}
	if err := x.list(ctx); err != nil || times != 2 || len(x.live) != 1 {
		t.Errorf("listed %d times, %d messages, %v", times, len(x.live), err)
	}
	if _, err := s.Append(ctx, at, mail.Append{Folder: "INBOX", Body: big(1), Unless: x.live[0].email}); !kind.Is(err, kind.Exists) {
		t.Errorf("an email that is there was put back: %v", err)
	}
	x.listed = func() {
		if _, err := s.Append(ctx, at, mail.Append{Folder: "INBOX", Body: big(2)}); err != nil {
			t.Error(err)
		}
	}
	if err := x.list(ctx); !kind.Is(err, kind.Conflict) {
		t.Errorf("a mailbox that never rests: %v", err)
	}
}
