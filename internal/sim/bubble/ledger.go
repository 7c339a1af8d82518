package bubble

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// perDatabase is how many mailboxes a database has.
const perDatabase = 2

// folders are those the clients use.
var folders = []string{"INBOX", "Archive"}

// ledger is what the clients were told.
type ledger struct {
	w     *world
	boxes []*box

	mu      sync.Mutex // guards the rest, and all of boxes and messages
	all     map[string]*message
	changes int
	repeats int
	reads   int
}

// box is a mailbox as it was confirmed to be.
type box struct {
	ref     org.MailboxRef
	folders map[string]mail.FolderID
	uid     map[string]mail.UID // the highest confirmed
	modseq  mail.ModSeq
	named   map[string]map[mail.UID]string // what each confirmed UID of a folder names
	shown   map[string]mail.Folder         // what a reader was shown last
}

// message is one message of one client; nobody else changes it.
type message struct {
	id     string
	box    *box
	folder string
	uid    mail.UID
	flags  mail.Flags
	gone   bool // it was expunged
	asked  bool // a change of it is not confirmed yet
	since  time.Time
}

func newLedger(w *world) *ledger {
	l := &ledger{w: w, all: map[string]*message{}}
	for d := range w.plan.Databases {
		for i := range perDatabase {
			ref := org.MailboxRef{ID: org.MailboxID{byte(d + 1), byte(i + 1)}, Database: databaseName(d)}
			l.boxes = append(l.boxes, &box{ref: ref, folders: map[string]mail.FolderID{}, uid: map[string]mail.UID{},
				named: map[string]map[mail.UID]string{}, shown: map[string]mail.Folder{}})
		}
	}
	return l
}

// prepare makes the mailboxes.
func (l *ledger) prepare() bool {
	c := &client{l: l, rnd: newRandom(l.w.plan.Seed, 10)}
	for _, b := range l.boxes {
		if !c.insist(func(ctx context.Context, s mail.Store) error {
			return s.Setup(ctx, b.ref, mail.MailboxSetup{Organization: "o"})
		}) {
			return false
		}
		var all []mail.Folder
		if !c.insist(func(ctx context.Context, s mail.Store) (err error) {
			all, err = s.Folders(ctx, b.ref)
			return err
		}) {
			return false
		}
		for _, f := range all {
			b.folders[f.Name] = f.ID
		}
		for _, f := range folders {
			if b.folders[f] == 0 {
				l.w.violate("a new mailbox has no folder %s", f)
				return false
			}
			b.named[f] = map[mail.UID]string{}
		}
	}
	return true
}

// begin starts the clients and readers; they end, each with its last change
// confirmed, after ctx has.
func (l *ledger) begin(ctx context.Context, wg *sync.WaitGroup) {
	for i := range l.w.plan.Clients {
		c := &client{l: l, name: fmt.Sprintf("c%d", i), rnd: newRandom(l.w.plan.Seed, 20+uint64(i))}
		wg.Go(func() { c.run(ctx) })
	}
	for i := range 2 {
		c := &client{l: l, rnd: newRandom(l.w.plan.Seed, 50+uint64(i))}
		wg.Go(func() { c.read(ctx) })
	}
}

func (l *ledger) counts() (changes, repeats, reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changes, l.repeats, l.reads
}

// client changes mailboxes through any server that answers.
type client struct {
	l    *ledger
	name string
	rnd  *random
	n    int
	mine []*message
}

// manyLive messages are enough for a client: it removes more than it makes.
const manyLive = 20

// patience is how long a client repeats a change: longer than all faults of a
// schedule and what it takes to mend them.
const patience = 4 * time.Minute

// insist does something through one server after the other until it is
// done. It gives up when the world has ended, and where it can never be done.
func (c *client) insist(do func(context.Context, mail.Store) error) bool {
	for since := time.Now(); c.l.w.ctx.Err() == nil; {
		s := c.l.w.order[c.rnd.intN(len(c.l.w.order))]
		if p := c.l.w.links.answers(s.name); p != nil {
			tctx, cancel := context.WithTimeout(p.ctx, c.rnd.between(500*time.Millisecond, 6*time.Second))
			err := do(tctx, p.keeper.Client())
			cancel()
			if p.over() {
				err = kind.Errorf(kind.Busy, "the server is gone")
			}
			switch kind.Of(err) {
			case kind.Busy, kind.Elsewhere, kind.Full:
			default:
				if err == nil {
					return true
				}
				c.l.w.violate("a client was told by %s: %v", s.name, err)
				return false
			}
			c.l.mu.Lock()
			c.l.repeats++
			c.l.mu.Unlock()
		}
		if time.Since(since) > patience {
			c.l.w.violate("G1: a client was not answered for %s", patience)
			return false
		}
		rest(c.l.w.ctx, c.rnd.between(2*time.Millisecond, 60*time.Millisecond))
	}
	return false
}

// run makes one change after the other.
func (c *client) run(ctx context.Context) {
	for rest(ctx, c.l.w.pace(c.rnd.between(5*time.Millisecond, 250*time.Millisecond))) {
		live := slices.DeleteFunc(slices.Clone(c.mine), func(m *message) bool { return m.gone })
		ok := true
		what := c.rnd.intN(10)
		if len(live) > manyLive {
			what = 5 + c.rnd.intN(7)
		}
		switch {
		case len(live) < 3 || what < 2:
			ok = c.append()
		case what < 5:
			ok = c.deliver()
		case what < 7:
			ok = c.flag(live[c.rnd.intN(len(live))])
		case what < 9:
			ok = c.move(live[c.rnd.intN(len(live))])
		default:
			ok = c.expunge(live[c.rnd.intN(len(live))])
		}
		if !ok {
			return
		}
	}
}

// write makes a new message.
func (c *client) write() (*message, []byte) {
	c.n++
	m := &message{id: fmt.Sprintf("%s-%d@bubble.test", c.name, c.n), box: c.l.boxes[c.rnd.intN(len(c.l.boxes))], folder: "INBOX", asked: true}
	size := []int{50, 400, 3000, 20000}[c.rnd.intN(4)]
	body := fmt.Sprintf("From: a@bubble.test\r\nSubject: %d\r\nMessage-ID: <%s>\r\n\r\n%s\r\n", c.n, m.id, strings.Repeat("x", size))
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.all[m.id] = m
	return m, []byte(body)
}

// key is what a change is repeated under.
func (c *client) key() func() mail.Key {
	k := mail.Key(c.rnd.key())
	if c.l.w.broken == FreshKeys {
		return func() mail.Key { return mail.Key(c.rnd.key()) }
	}
	return func() mail.Key { return k }
}

// floor is what is confirmed of a folder before a change is asked for.
type floor struct {
	uid    mail.UID
	modseq mail.ModSeq
}

// ask notes that a change of m is on its way.
func (c *client) ask(m *message, folder string) floor {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	m.asked = true
	return floor{m.box.uid[folder], m.box.modseq}
}

// told notes what a client was told: m is now under uid in folder.
func (c *client) told(m *message, f floor, folder string, uid mail.UID, modseq mail.ModSeq) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.changes++
	m.asked, m.since = false, time.Now()
	if modseq != 0 && modseq <= f.modseq {
		c.l.w.violate("G4: a change of %s has modification number %d, %d was confirmed before it was asked for", m.id, modseq, f.modseq)
	}
	m.box.modseq = max(m.box.modseq, modseq)
	if uid == m.uid && folder == m.folder {
		return
	}
	m.folder, m.uid = folder, uid
	if uid <= f.uid {
		c.l.w.violate("G4: %s has UID %d in %s, %d was confirmed before it was asked for", m.id, uid, folder, f.uid)
	}
	if was, ok := m.box.named[folder][uid]; ok {
		c.l.w.violate("G4: UID %d of %s names %s and %s", uid, folder, was, m.id)
	}
	m.box.named[folder][uid] = m.id
	m.box.uid[folder] = max(m.box.uid[folder], uid)
}

func (c *client) append() bool {
	m, body := c.write()
	m.flags = mail.Flags(c.rnd.intN(4))
	m.folder = folders[c.rnd.intN(len(folders))]
	f, key := c.ask(m, m.folder), c.key()
	var a mail.Appended
	if !c.insist(func(ctx context.Context, s mail.Store) (err error) {
		a, err = s.Append(ctx, m.box.ref, mail.Append{Key: key(), Folder: m.folder, Flags: m.flags, Body: body, InternalDate: 1})
		return err
	}) {
		return false
	}
	c.told(m, f, m.folder, a.UID, a.ModSeq)
	c.mine = append(c.mine, m)
	return true
}

func (c *client) deliver() bool {
	m, body := c.write()
	f, key := c.ask(m, m.folder), c.key()
	var uid mail.UID
	if !c.insist(func(ctx context.Context, s mail.Store) error {
		d := mail.Delivery{Key: key(), Recipients: []mail.Recipient{{Mailbox: m.box.ref}}, Body: body, Date: 1}
		if c.l.w.broken != FreshKeys {
			d.Identity = sha256.Sum256([]byte(m.id))
		}
		got, err := s.Deliver(ctx, d)
		if err == nil && got[0].Refused != "" {
			return kind.Errorf(kind.Kind(got[0].RefusedKind), "%s", got[0].Refused)
		}
		if err == nil && !got[0].Duplicate {
			uid = got[0].UID
		}
		return err
	}) {
		return false
	}
	if uid == 0 {
		// It was there already, so its UID has to be looked up.
		if uid = c.find(m); uid == 0 {
			c.l.w.violate("G1: %s is there already, and is not there", m.id)
			return false
		}
	}
	c.told(m, f, m.folder, uid, 0)
	c.mine = append(c.mine, m)
	return true
}

// find looks for a message in its folder.
func (c *client) find(m *message) (uid mail.UID) {
	c.insist(func(ctx context.Context, s mail.Store) error {
		all, _, err := list(ctx, s, m.box, m.folder)
		for _, x := range all {
			if x.Summary != nil && x.Summary.Envelope.MessageID == m.id {
				uid = x.UID
			}
		}
		return err
	})
	return uid
}

func one(u mail.UID) []mail.UIDRange { return []mail.UIDRange{{First: u, Last: u}} }

func (c *client) flag(m *message) bool {
	flags := m.flags ^ mail.Flags(1+c.rnd.intN(7))&^mail.Deleted
	f, key := c.ask(m, m.folder), c.key()
	var got mail.FlagsChanged
	if !c.insist(func(ctx context.Context, s mail.Store) (err error) {
		got, err = s.ChangeFlags(ctx, m.box.ref, mail.FlagsChange{Key: key(), Folder: m.box.folders[m.folder], UIDs: one(m.uid), Op: "set", Flags: flags})
		return err
	}) {
		return false
	}
	if len(got.Messages) != 1 {
		c.l.w.violate("G1: flags of %s (UID %d in %s) cannot be changed: it is not there", m.id, m.uid, m.folder)
		return false
	}
	seq := got.ModSeq
	if flags == m.flags {
		seq = 0
	}
	c.l.mu.Lock()
	m.flags = flags
	c.l.mu.Unlock()
	c.told(m, f, m.folder, m.uid, seq)
	return true
}

func (c *client) move(m *message) bool {
	to := folders[0]
	if m.folder == to {
		to = folders[1]
	}
	f, key := c.ask(m, to), c.key()
	var got mail.Copied
	if !c.insist(func(ctx context.Context, s mail.Store) (err error) {
		got, err = s.Copy(ctx, m.box.ref, mail.CopyRequest{Key: key(), Folder: m.box.folders[m.folder], UIDs: one(m.uid), Target: to, Move: true})
		return err
	}) {
		return false
	}
	if len(got.Target) != 1 {
		c.l.w.violate("G1: %s (UID %d in %s) cannot be moved: it is not there", m.id, m.uid, m.folder)
		return false
	}
	c.told(m, f, to, got.Target[0], got.ModSeq)
	return true
}

func (c *client) expunge(m *message) bool {
	f, key := c.ask(m, m.folder), c.key()
	var got mail.Expunged
	if !c.insist(func(ctx context.Context, s mail.Store) (err error) {
		got, err = s.Expunge(ctx, m.box.ref, mail.Expunge{Key: key(), Folder: m.box.folders[m.folder], UIDs: one(m.uid)})
		return err
	}) {
		return false
	}
	if len(got.UIDs) != 1 {
		c.l.w.violate("G1: %s (UID %d in %s) cannot be expunged: it is not there", m.id, m.uid, m.folder)
		return false
	}
	c.l.mu.Lock()
	m.gone = true
	c.l.mu.Unlock()
	c.told(m, f, m.folder, m.uid, got.ModSeq)
	return true
}

// list reads a whole folder.
func list(ctx context.Context, s mail.Store, b *box, folder string) ([]mail.Message, mail.Folder, error) {
	var all []mail.Message
	from := mail.UID(1)
	for {
		ms, err := s.Messages(ctx, b.ref, mail.MessagesRequest{Folder: b.folders[folder], UIDs: []mail.UIDRange{{First: from, Last: 1<<32 - 1}}, Summaries: true})
		if err != nil {
			return nil, mail.Folder{}, err
		}
		all = append(all, ms.Messages...)
		if !ms.More || len(ms.Messages) == 0 {
			return all, ms.Folder, nil
		}
		from = ms.Messages[len(ms.Messages)-1].UID + 1
	}
}

// sorted are the messages of the ledger in a fixed order. l.mu is held.
func (l *ledger) sorted() []*message {
	var out []*message
	for _, id := range slices.Sorted(maps.Keys(l.all)) {
		out = append(out, l.all[id])
	}
	return out
}
