package store

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// machine drives planner and index with random requests, some in flight, and
// compares with the model.
type machine struct {
	*bench
	model   *model
	states  []*model // states[i] is the model before log[i]
	asked   []keyed
	subject int
	dropped int // records compacted away
	client  map[string]*follower
}

// keyed is a change with a key, with its answer.
type keyed struct {
	req    any
	record int // where it was logged
	answer string
}

func ids() *rapid.Generator[org.MailboxID] {
	return rapid.Custom(func(t *rapid.T) org.MailboxID { return org.MailboxID{byte(rapid.IntRange(1, 3).Draw(t, "mailbox"))} })
}

func names() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{inbox, "Sent", "A", "A/B", "A/B/C", "AB", "D", "D/B", "Trash"})
}

func uidSets() *rapid.Generator[[]mail.UIDRange] {
	return rapid.Custom(func(t *rapid.T) []mail.UIDRange {
		if rapid.Bool().Draw(t, "all") {
			return nil
		}
		out := []mail.UIDRange{}
		for range rapid.IntRange(0, 3).Draw(t, "ranges") {
			out = append(out, mail.UIDRange{First: mail.UID(rapid.IntRange(0, 12).Draw(t, "first")), Last: mail.UID(rapid.IntRange(0, 12).Draw(t, "last"))})
		}
		return out
	})
}

func flagSets() *rapid.Generator[mail.Flags] {
	return rapid.Custom(func(t *rapid.T) mail.Flags { return mail.Flags(rapid.IntRange(0, 31).Draw(t, "flags")) })
}

// log plans a request; a record that it makes is remembered with the model.
func (m *machine) send(t *rapid.T, req any, before *model) any {
	n := len(m.log)
	res, err := m.req(req)
	if err != nil {
		t.Fatalf("%T %+v: %v", req, req, err)
	}
	if len(m.log) > n {
		m.states = append(m.states, before)
	}
	return res
}

// refuse plans a request that has to fail.
func (m *machine) refuse(t *rapid.T, req any, k kind.Kind) {
	if _, err := m.req(req); !kind.Is(err, k) {
		t.Fatalf("%T %+v: error %v, want %v", req, req, err, k)
	}
}

func (m *machine) newSubject() string {
	m.subject++
	return fmt.Sprintf("s%d", m.subject)
}

func (m *machine) key() mail.Key {
	m.subject++
	return mail.Key{1, byte(m.subject >> 8), byte(m.subject)}
}

func (m *machine) remember(req, res any) {
	m.asked = append(m.asked, keyed{req, len(m.log), fmt.Sprintf("%+v", res)})
}

func (m *machine) Setup(t *rapid.T) {
	id, before := ids().Draw(t, "id"), m.model.clone()
	quota := int64(rapid.SampledFrom([]int{0, 0, 20}).Draw(t, "quota"))
	remove := rapid.IntRange(0, 9).Draw(t, "remove") == 0
	m.send(t, &SetupReq{Mailbox: id, MailboxSetup: mail.MailboxSetup{QuotaMessages: quota, Remove: remove}}, before)
	m.model.setup(id, quota, remove)
}

func (m *machine) Deliver(t *rapid.T) {
	to := rapid.SliceOfN(ids(), 1, 3).Draw(t, "to")
	subject := m.newSubject()
	if m.subject > 1 && rapid.IntRange(0, 5).Draw(t, "again") == 0 {
		subject = fmt.Sprintf("s%d", rapid.IntRange(1, m.subject).Draw(t, "which"))
	}
	before := m.model.clone()
	req := delivery(subject, to...)
	req.Key = m.key()
	n := len(m.log)
	got := m.send(t, req, before).([]mail.Delivered)
	for i, want := range m.model.deliver(subject, to) {
		g := got[i]
		if g.Duplicate != want.Duplicate || g.RefusedKind != want.RefusedKind || !g.Duplicate && g.UID != want.UID {
			t.Fatalf("delivery %q to %v: %+v, want %+v", subject, to, got, want)
		}
	}
	if len(m.log) > n {
		m.remember(req, got)
	}
}

func (m *machine) Append(t *rapid.T) {
	id, name, flags := ids().Draw(t, "id"), names().Draw(t, "folder"), flagSets().Draw(t, "flags")
	subject, before := m.newSubject(), m.model.clone()
	req := &AppendReq{Mailbox: id, Append: mail.Append{Key: m.key(), Folder: name, Flags: flags, Body: message(subject)}}
	uid, k, ok := m.model.appendTo(id, name, subject, flags)
	if !ok {
		m.refuse(t, req, k)
		return
	}
	got := m.send(t, req, before).(mail.Appended)
	if got.UID != uid {
		t.Fatalf("append: %+v, want uid %d", got, uid)
	}
	m.remember(req, got)
}

// pick chooses a mailbox and a folder of it, with the folder's identity as the
// planner sees it.
func (m *machine) pick(t *rapid.T) (org.MailboxID, string, mail.FolderID) {
	id, name := ids().Draw(t, "id"), names().Draw(t, "folder")
	b := m.model.boxes[id]
	if b == nil || b.folders[name] == nil {
		t.Skip("no such folder")
	}
	all, err := loadFolders(m.plan, id)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(f mail.Folder) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("planner does not see folder %q", name)
	}
	return id, name, all[i].ID
}

func (m *machine) Flags(t *rapid.T) {
	id, name, f := m.pick(t)
	c := mail.FlagsChange{
		Key: m.key(), Folder: f, UIDs: uidSets().Draw(t, "uids"), Flags: flagSets().Draw(t, "flags"),
		Op:       rapid.SampledFrom([]string{"add", "remove", "set"}).Draw(t, "op"),
		Keywords: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID).Draw(t, "words"),
	}
	if rapid.IntRange(0, 3).Draw(t, "since") == 0 {
		since := mail.ModSeq(rapid.Uint64Range(0, uint64(m.model.boxes[id].modseq)).Draw(t, "unchangedsince"))
		c.UnchangedSince = &since
	}
	before := m.model.clone()
	got := m.send(t, &FlagsReq{Mailbox: id, FlagsChange: c}, before).(mail.FlagsChanged)
	want := m.model.flags(id, name, &c)
	if !slices.Equal(expand(got.Modified), want) || got.ModSeq != m.model.boxes[id].modseq {
		t.Fatalf("flags: %+v, want modified %v", got, want)
	}
}

func (m *machine) Expunge(t *rapid.T) {
	id, name, f := m.pick(t)
	q := mail.Expunge{Key: m.key(), Folder: f, UIDs: uidSets().Draw(t, "uids"), OnlyDeleted: rapid.Bool().Draw(t, "deleted")}
	before := m.model.clone()
	req := &ExpungeReq{Mailbox: id, Expunge: q}
	n := len(m.log)
	got := m.send(t, req, before).(mail.Expunged)
	if want := m.model.expunge(id, name, q.UIDs, q.OnlyDeleted); !slices.Equal(expand(got.UIDs), want) {
		t.Fatalf("expunged %v, want %v", got.UIDs, want)
	}
	if len(m.log) > n {
		m.remember(req, got)
	}
}

func (m *machine) Copy(t *rapid.T) {
	id, name, f := m.pick(t)
	q := mail.CopyRequest{Key: m.key(), Folder: f, UIDs: uidSets().Draw(t, "uids"), Target: names().Draw(t, "target"), Move: rapid.Bool().Draw(t, "move")}
	req := &CopyReq{Mailbox: id, CopyRequest: q}
	if m.model.boxes[id].folders[q.Target] == nil {
		m.refuse(t, req, kind.NotFound)
		return
	}
	before := m.model.clone()
	from, to, full := m.model.copy(id, name, q.Target, q.UIDs, q.Move)
	if full {
		m.refuse(t, req, kind.Full)
		return
	}
	n := len(m.log)
	got := m.send(t, req, before).(mail.Copied)
	if !slices.Equal(got.Source, from) || !slices.Equal(got.Target, to) {
		t.Fatalf("copied %+v, want %v -> %v", got, from, to)
	}
	if len(m.log) > n {
		m.remember(req, got)
	}
}

func (m *machine) Folder(t *rapid.T) {
	id := ids().Draw(t, "id")
	c := mail.FolderChange{
		Key: m.key(), Op: rapid.SampledFrom([]string{"create", "create", "rename", "delete", "subscribe", "unsubscribe"}).Draw(t, "op"),
		Name: names().Draw(t, "name"), NewName: names().Draw(t, "new"),
	}
	req := &FolderReq{Mailbox: id, FolderChange: c}
	if m.model.boxes[id] == nil {
		m.refuse(t, req, kind.NotFound)
		return
	}
	before := m.model.clone()
	if k, ok := m.model.folder(id, c.Op, c.Name, c.NewName); !ok {
		m.refuse(t, req, k)
		return
	}
	m.send(t, req, before)
}

// Again repeats a change with its key: the same answer, no record.
func (m *machine) Again(t *rapid.T) {
	if len(m.asked) == 0 {
		t.Skip("nothing asked")
	}
	k := rapid.SampledFrom(m.asked).Draw(t, "which")
	p, err := m.plan.Plan(k.req, m.end.LSN, m.now)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", p.Result); !p.NoOp || got != k.answer {
		t.Fatalf("repeated %T: no-op %v, %s, was %s", k.req, p.NoOp, got, k.answer)
	}
	if inFlight := k.record > m.done; inFlight != (p.DependsOn > m.ix.Applied().LSN) || p.DependsOn > m.end.LSN {
		t.Fatalf("answer depends on %d, applied %d, log ends at %d", p.DependsOn, m.ix.Applied().LSN, m.end.LSN)
	}
}

func (m *machine) Apply(t *rapid.T) {
	if n := len(m.log) - m.done; n > 0 {
		m.applySome(rapid.IntRange(1, n).Draw(t, "records"))
	}
}

// Lose forgets what is in flight, as a leader does that lost its term.
func (m *machine) Lose(t *rapid.T) {
	if m.done == len(m.log) {
		t.Skip("nothing in flight")
	}
	m.model = m.states[m.done]
	m.log, m.states, m.end = m.log[:m.done], m.states[:m.done], m.ix.Applied()
	m.plan.Reset()
	m.asked = slices.DeleteFunc(m.asked, func(k keyed) bool { return k.record > m.done })
	m.subject += 1000 // identities and keys of lost requests are not used again
}

func (m *machine) Flush(t *rapid.T) {
	if err := m.ix.Flush(); err != nil {
		t.Fatal(err)
	}
	if m.ix.Durable() != m.ix.Applied().LSN {
		t.Fatalf("durable %d after a flush at %d", m.ix.Durable(), m.ix.Applied().LSN)
	}
}

// Crash loses what was not on stable storage and replays the log.
func (m *machine) Crash(t *rapid.T) {
	before, durable := m.digest(), m.ix.Durable()
	fs := m.fs.CrashClone(vfs.CrashCloneCfg{})
	if err := m.ix.Close(); err != nil {
		t.Fatal(err)
	}
	pending := m.log[m.done:]
	m.open(fs)
	at := m.ix.Applied().LSN
	if at < durable {
		t.Fatalf("index is at %d after a crash, durable was %d", at, durable)
	}
	i := slices.IndexFunc(m.log, func(r journal.Record) bool { return r.LSN == at })
	if i < 0 {
		i = m.dropped // an empty index, or all of the log
		if at == m.end.LSN {
			i = len(m.log)
		}
	}
	if _, err := m.ix.Apply(m.log[i:m.done]); err != nil {
		t.Fatal(err)
	}
	if m.digest() != before {
		t.Fatal("index differs after crash and replay")
	}
	// The leader is gone with its planner, but what was written survives.
	if _, err := m.ix.Apply(pending); err != nil {
		t.Fatal(err)
	}
	m.done = len(m.log)
}

// Compact carries the oldest records on and drops them.
func (m *machine) Compact(t *rapid.T) {
	m.Apply(t)
	n := rapid.IntRange(1, 20).Draw(t, "records")
	old := m.log[m.dropped:min(m.dropped+n, m.done)]
	for len(old) > 0 {
		before := m.model.clone()
		k := m.send(t, &CompactReq{Records: old}, before).(int)
		if k < 1 {
			t.Fatal("no progress")
		}
		m.dropped += k
		old = old[k:]
	}
	m.applySome(len(m.log) - m.done)
}

func (m *machine) Wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "minutes")) * time.Minute)
	m.asked = nil // some are over now
}

// Check holds after every step: the planner sees the model.
func (m *machine) Check(t *rapid.T) {
	if m.done != len(m.log) {
		for id, b := range m.model.boxes {
			var row mailboxRow
			if ok, err := load(m.plan, mailboxKey(id), &row, "mailbox"); err != nil || !ok || row.ModSeq != b.modseq || row.Messages != b.count() {
				t.Fatalf("planner sees %+v of %v, %v", row, id, err)
			}
		}
		return
	}
	if m.plan.Pending() > 0 || len(m.plan.over.vals) > 0 || m.plan.over.sorted.len > 0 {
		t.Fatalf("overlay keeps %d keys of settled records", len(m.plan.over.vals))
	}
	m.read(func(r *Reader) {
		for i := range 4 {
			id := org.MailboxID{byte(i)}
			got, err := describeIndex(r, id)
			if want := m.model.describe(id); err != nil || got != want {
				t.Fatalf("mailbox %d: %v\n%s\nwant\n%s", i, err, got, want)
			}
			m.follow(t, r, id)
		}
		m.bodies(t, r)
	})
}

// bodies holds that every message's bytes are in the part of the log that is
// left, and that every body nobody needs is known to be dead.
func (m *machine) bodies(t *rapid.T, r *Reader) {
	needed := map[org.LSN]bool{}
	for id := range m.model.boxes {
		folders, _ := r.Folders(id)
		for _, f := range folders {
			page, _ := r.Messages(id, mail.MessagesRequest{Folder: f.ID, Summaries: true})
			for _, msg := range page.Messages {
				lsn, size, ok := r.Blob(msg.Blob)
				i := slices.IndexFunc(m.log, func(rec journal.Record) bool { return rec.LSN == lsn })
				want := message(msg.Summary.Envelope.Subject)
				if !ok || i < m.dropped || !bytes.Equal(m.log[i].Body, want) || size != int64(len(want)) {
					t.Fatalf("message %+v: blob at %d in record %d, %v", msg, lsn, i, ok)
				}
				needed[lsn] = true
			}
		}
	}
	for _, rec := range m.log[m.dropped:] {
		if len(rec.Body) > 0 && m.ix.BodyDead(rec.LSN) == needed[rec.LSN] {
			t.Fatalf("body at %d: dead %v, needed %v", rec.LSN, !needed[rec.LSN], needed[rec.LSN])
		}
	}
}

// follower is a client that knows a folder and asks only for changes.
type follower struct {
	since mail.ModSeq
	flags map[mail.UID]mail.Flags
}

func (m *machine) follow(t *rapid.T, r *Reader, id org.MailboxID) {
	folders, err := r.Folders(id)
	if err != nil {
		return
	}
	for _, f := range folders {
		name := fmt.Sprint(id, f.ID)
		c := m.client[name]
		if c == nil {
			c = &follower{flags: map[mail.UID]mail.Flags{}}
			m.client[name] = c
		}
		ch, err := r.Changes(id, mail.ChangesRequest{Folder: f.ID, Since: c.since})
		if err != nil || ch.Gone || ch.Reset && c.since != 0 {
			t.Fatalf("changes of %q since %d: %+v, %v", f.Name, c.since, ch, err)
		}
		for _, u := range expand(ch.Vanished) {
			delete(c.flags, u)
		}
		for _, msg := range ch.Messages {
			if msg.ModSeq <= c.since {
				t.Fatalf("change %+v since %d", msg, c.since)
			}
			c.flags[msg.UID] = msg.Flags
		}
		c.since = f.HighestModSeq
		if ch.Reset {
			c.since = 0
			continue
		}
		have := m.model.boxes[id].folders[f.Name].msgs
		if len(have) != len(c.flags) {
			t.Fatalf("client of %q knows %d messages, there are %d", f.Name, len(c.flags), len(have))
		}
		for u, msg := range have {
			if got, ok := c.flags[u]; !ok || got != msg.flags {
				t.Fatalf("client of %q has flags %v of %d, want %v", f.Name, got, u, msg.flags)
			}
		}
	}
}

// TestRandom is promise 1, 2, 3 and the argument for dropping segments.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{bench: newBench(t), model: newModel(), client: map[string]*follower{}}
		m.states = []*model{newModel()}
		defer func() { m.ix.Close() }()
		for i := range 2 {
			before := m.model.clone()
			m.send(rt, &SetupReq{Mailbox: org.MailboxID{byte(i + 1)}}, before)
			m.model.setup(org.MailboxID{byte(i + 1)}, 0, false)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"setup": m.Setup, "deliver": m.Deliver, "deliver more": m.Deliver, "append": m.Append, "append more": m.Append,
			"flags": m.Flags, "expunge": m.Expunge, "copy": m.Copy, "copy more": m.Copy, "folder": m.Folder, "again": m.Again,
			"apply": m.Apply, "lose": m.Lose, "flush": m.Flush, "crash": m.Crash, "compact": m.Compact, "wait": m.Wait, "": m.Check,
		})
		m.apply()
		m.Check(rt)
		want := m.digest()
		if rebuilt(rt, m.log[m.dropped:]) != want {
			rt.Fatal("index rebuilt from what is left of the log differs")
		}
		if m.dropped == 0 && rebuilt(rt, m.log) != want {
			rt.Fatal("index rebuilt from the log differs")
		}
	})
}
