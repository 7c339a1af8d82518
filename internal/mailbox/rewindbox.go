package mailbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// rewindBatch is how many messages one change concerns.
const rewindBatch = 1000

// rewindBox is a mailbox that is brought back. It holds a row of some 70 bytes for
// each of its messages, and the messages of the past that are not where they were.
type rewindBox struct {
	v       *rewind
	at      org.MailboxRef
	row     Rewound
	modseq  mail.ModSeq // of the live mailbox before it was listed
	folders []mail.Folder
	live    []liveMail
	spans   map[mail.FolderID][2]int    // where a folder's messages are in live
	fresh   map[mail.EmailID][][32]byte // deliveries since, of emails that were not there then
	missing []owed
	bodies  map[mail.BlobID]*[32]byte // sums of live messages that were read
	put     map[mail.EmailID]spot     // where an email of the past was put back
	moves   map[transfer][]owed
	flags   map[flagging][]mail.UID
	named   map[mail.FolderID]bool // folders that got their name back
	listed  func()                 // for tests: called after each listing; nil else
}

// liveMail is a message of the live mailbox.
type liveMail struct {
	folder  mail.FolderID
	uid     mail.UID
	email   mail.EmailID
	blob    mail.BlobID
	size    int64
	date    int64
	words   []string
	flags   mail.Flags
	claimed bool // it is one of the past, where it was or on its way there
}

type spot struct {
	folder mail.FolderID
	uid    mail.UID
}

// owed is a message of the past and the folder it belongs into.
type owed struct {
	m      mail.Message
	was    mail.FolderID
	target *mail.Folder // ID 0: it is not there yet (dry run)
	live   *liveMail    // what stands for it
}

// transfer is a move or copy of messages.
type transfer struct {
	from   mail.FolderID
	target *mail.Folder
	move   bool
}

// flagging is a change of flags.
type flagging struct {
	folder mail.FolderID
	flags  mail.Flags
	words  string // joined by spaces
	moved  bool   // these were just moved by us
}

func newRewindBox(v *rewind, at org.MailboxRef, name string) *rewindBox {
	return &rewindBox{v: v, at: at, row: Rewound{Mailbox: name, ID: at.ID},
		fresh: map[mail.EmailID][][32]byte{}, spans: map[mail.FolderID][2]int{},
		put: map[mail.EmailID]spot{}, bodies: map[mail.BlobID]*[32]byte{},
		moves: map[transfer][]owed{}, flags: map[flagging][]mail.UID{}, named: map[mail.FolderID]bool{}}
}

// run brings the mailbox back; was tells whether it was there then.
func (x *rewindBox) run(ctx context.Context, was bool) error {
	// Deliveries first: what comes while the mailbox is listed is not taken for gone.
	if err := x.deliveries(ctx); err != nil {
		return err
	}
	if err := x.list(ctx); err != nil {
		return err
	}
	if was {
		if err := x.compare(ctx); err != nil {
			return err
		}
		x.find()
		if err := x.putBack(ctx); err != nil {
			return err
		}
	}
	x.untrash()
	for _, step := range []func(context.Context) error{x.transfers, x.setFlags, x.forget} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	for i := range x.live {
		if !x.live[i].claimed {
			x.row.Later++
		}
	}
	return nil
}

// deliveries notes what was delivered since.
func (x *rewindBox) deliveries(ctx context.Context) error {
	q := deliveriesRequest{Since: x.v.o.At.UnixNano()}
	for {
		a, err := send(ctx, x.v.k, opDeliveries, x.at, q)
		if err != nil {
			return err
		}
		for _, d := range a.Rows {
			x.fresh[d.Email] = append(x.fresh[d.Email], d.Identity)
			q.After = d.Identity
		}
		if !a.More || len(a.Rows) == 0 {
			return nil
		}
	}
}

// listTries is how often a mailbox is listed that changes meanwhile.
const listTries = 3

// list goes through the live mailbox. What is moved meanwhile could be in neither of
// its folders, so only a list that nothing changed during counts.
func (x *rewindBox) list(ctx context.Context) error {
	for range listTries {
		if err := x.listOnce(ctx); err != nil {
			return err
		}
		if x.listed != nil {
			x.listed()
		}
		u, err := x.v.k.Client().Usage(ctx, x.at)
		if err != nil {
			return err
		}
		if u.ModSeq == x.modseq {
			return nil
		}
	}
	return kind.WithHint(kind.Errorf(kind.Conflict, "the mailbox changes all the time; run the command again"), "run the command again")
}

func (x *rewindBox) listOnce(ctx context.Context) error {
	cl := x.v.k.Client()
	u, err := cl.Usage(ctx, x.at)
	if err != nil {
		return err
	}
	x.modseq, x.live = u.ModSeq, x.live[:0]
	clear(x.spans)
	if x.folders, err = cl.Folders(ctx, x.at); err != nil {
		return err
	}
	for _, f := range x.folders {
		from := len(x.live)
		err := eachPage(func(q mail.MessagesRequest) (mail.Messages, error) { return cl.Messages(ctx, x.at, q) }, f.ID, func(m mail.Message) {
			x.live = append(x.live, liveMail{folder: f.ID, uid: m.UID, email: m.Email, blob: m.Blob, size: m.Size, date: m.InternalDate, words: m.Keywords, flags: m.Flags})
		})
		if err != nil && !kind.Is(err, kind.NotFound) { // else removed meanwhile
			return err
		}
		x.spans[f.ID] = [2]int{from, len(x.live)}
	}
	return nil
}

// eachPage calls f for the messages of a folder.
func eachPage(page func(mail.MessagesRequest) (mail.Messages, error), id mail.FolderID, f func(mail.Message)) error {
	for next := mail.UID(1); next != 0; {
		ms, err := page(mail.MessagesRequest{Folder: id, UIDs: []mail.UIDRange{{First: next, Last: 1<<32 - 1}}})
		if err != nil {
			return err
		}
		for _, m := range ms.Messages {
			f(m)
			next = m.UID + 1
		}
		if !ms.More || len(ms.Messages) == 0 {
			return nil
		}
	}
	return nil
}

// liveAt finds a message of the live mailbox, nil where it is not there.
func (x *rewindBox) liveAt(f mail.FolderID, u mail.UID) *liveMail {
	s := x.spans[f]
	part := x.live[s[0]:s[1]]
	if i, ok := slices.BinarySearchFunc(part, u, func(l liveMail, u mail.UID) int { return cmp.Compare(l.uid, u) }); ok {
		return &part[i]
	}
	return nil
}

// compare goes through the past: what is where it was gets its flags, what is not
// is missing.
func (x *rewindBox) compare(ctx context.Context) error {
	then, err := x.v.past.Folders(ctx, x.at.ID)
	if err != nil {
		return err
	}
	if err := x.rename(ctx, then); err != nil {
		return err
	}
	for _, f := range then {
		target, err := x.folder(ctx, f)
		if err != nil {
			return err
		}
		err = eachPage(func(q mail.MessagesRequest) (mail.Messages, error) { return x.v.past.Messages(ctx, x.at.ID, q) }, f.ID, func(m mail.Message) {
			x.row.Then++
			delete(x.fresh, m.Email)
			if target == nil {
				x.row.Refused++
				return
			}
			w := owed{m: m, was: f.ID, target: target}
			if l := x.liveAt(f.ID, m.UID); l != nil && l.email == m.Email {
				x.claim(w, l)
				return
			}
			x.missing = append(x.missing, w)
		})
		if err != nil {
			return err
		}
		x.v.tell(ctx, "%s: %d messages of the past", x.row.Mailbox, x.row.Then)
	}
	return nil
}

// folder is the live folder for one of the past, made, named and subscribed as it
// was; nil where the mailbox takes no more folders.
func (x *rewindBox) folder(ctx context.Context, f mail.Folder) (*mail.Folder, error) {
	now, changed, err := x.sameFolder(ctx, f)
	if err != nil {
		return nil, err
	}
	if now.Subscribed != f.Subscribed && now.ID != 0 {
		done, err := x.changeFolder(ctx, mail.FolderChange{Op: map[bool]string{true: "subscribe", false: "unsubscribe"}[f.Subscribed], Name: now.Name})
		if err != nil {
			return nil, err
		}
		changed = changed || done
	}
	if changed {
		x.row.Folders++
	}
	if now.ID == 0 && !x.v.o.DryRun {
		x.row.Result = fmt.Sprintf("folder %q cannot be made again: the mailbox has too many", f.Name)
		return nil, nil
	}
	return &now, nil
}

// nameOf is the name that a folder has now: what it is below may have been renamed.
func (x *rewindBox) nameOf(f *mail.Folder) string {
	if i := x.byID(f.ID); i >= 0 {
		return x.folders[i].Name
	}
	return f.Name
}

// into calls f with the name of a folder, once more where that was changed meanwhile.
func (x *rewindBox) into(ctx context.Context, t *mail.Folder, f func(name string) error) error {
	name := x.nameOf(t)
	err := f(name)
	if !kind.Is(err, kind.NotFound) {
		return err
	}
	all, ferr := x.v.k.Client().Folders(ctx, x.at)
	if ferr != nil {
		return ferr
	}
	x.folders = all
	if now := x.nameOf(t); now != name {
		return f(now)
	}
	return err
}

func (x *rewindBox) byID(id mail.FolderID) int {
	return slices.IndexFunc(x.folders, func(n mail.Folder) bool { return n.ID == id })
}

// rename gives the folders of the past that are still there their names back, before
// others are made or lent by name. One keeps its new name where the old one was taken
// since. A name may be free only after another was given back.
func (x *rewindBox) rename(ctx context.Context, then []mail.Folder) error {
	for range then {
		again := false
		for _, f := range then {
			i := x.byID(f.ID)
			if _, taken := byName(x.folders, f.Name); i < 0 || taken || x.folders[i].Name == f.Name {
				continue
			}
			done, err := x.changeFolder(ctx, mail.FolderChange{Op: "rename", Name: x.folders[i].Name, NewName: f.Name})
			if err != nil && !kind.Is(err, kind.NotFound) { // else its user was faster
				return err
			}
			x.named[f.ID] = x.named[f.ID] || done
			again = again || done
		}
		if !again || x.v.o.DryRun {
			break
		}
	}
	return nil
}

// sameFolder is folder but for the subscription.
func (x *rewindBox) sameFolder(ctx context.Context, f mail.Folder) (now mail.Folder, changed bool, err error) {
	if i := x.byID(f.ID); i >= 0 {
		return x.folders[i], x.named[f.ID], nil
	}
	named, taken := byName(x.folders, f.Name)
	if taken {
		return named, false, nil
	}
	c := mail.FolderChange{Op: "create", Name: f.Name, SpecialUse: f.SpecialUse}
	if f.SpecialUse != "" && slices.ContainsFunc(x.folders, func(n mail.Folder) bool { return n.SpecialUse == f.SpecialUse }) {
		c.SpecialUse = ""
	}
	if changed, err = x.changeFolder(ctx, c); err != nil {
		return now, false, err
	}
	if now, taken = byName(x.folders, f.Name); !taken {
		now.Name = f.Name
	}
	return now, changed, nil
}

// changeFolder changes a folder, in a dry run only in word, and tells whether it
// could: the name may have been taken, or there may be too many.
func (x *rewindBox) changeFolder(ctx context.Context, c mail.FolderChange) (bool, error) {
	if x.v.o.DryRun {
		return true, nil
	}
	_, err := x.v.k.Client().ChangeFolder(ctx, x.at, c)
	if kind.Is(err, kind.Exists) || kind.Is(err, kind.Invalid) || kind.Is(err, kind.Full) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	x.folders, err = x.v.k.Client().Folders(ctx, x.at)
	return true, err
}

// claim has a live message, that is in the right folder, stand for one of the past.
func (x *rewindBox) claim(w owed, l *liveMail) {
	l.claimed = true
	if !sameFlags(w.m, l) {
		k := flagging{folder: l.folder, flags: w.m.Flags, words: strings.Join(w.m.Keywords, " ")}
		x.flags[k] = append(x.flags[k], l.uid)
	}
}

func sameFlags(m mail.Message, l *liveMail) bool {
	return m.Flags == l.flags && slices.EqualFunc(m.Keywords, l.words, strings.EqualFold)
}

// take has a live message from elsewhere stand for one of the past: moved, or
// copied where it stands for another one already.
func (x *rewindBox) take(w owed, l *liveMail) {
	t := transfer{from: l.folder, target: w.target, move: !l.claimed}
	l.claimed, w.live = true, l
	x.moves[t] = append(x.moves[t], w)
	x.row.Moved++
}

// find looks for what is missing elsewhere in the mailbox, and leaves in missing
// what is nowhere.
func (x *rewindBox) find() {
	found := map[mail.EmailID][]*liveMail{}
	for _, w := range x.missing {
		found[w.m.Email] = nil
	}
	for i := range x.live {
		l := &x.live[i]
		if _, ok := found[l.email]; ok {
			found[l.email] = append(found[l.email], l)
		}
	}
	// First what is in the right folder under another UID, so that it is not taken
	// elsewhere.
	x.missing = slices.DeleteFunc(x.missing, func(w owed) bool {
		for _, l := range found[w.m.Email] {
			if !l.claimed && l.folder == w.target.ID {
				x.claim(w, l)
				return true
			}
		}
		return false
	})
	x.missing = slices.DeleteFunc(x.missing, func(w owed) bool {
		all := found[w.m.Email]
		i := slices.IndexFunc(all, func(l *liveMail) bool { return !l.claimed })
		if len(all) == 0 {
			return false
		}
		x.take(w, all[max(i, 0)])
		return true
	})
}

// untrash takes what was delivered since and is only in the trash back to INBOX:
// whoever destroyed what was there before may have put this there.
func (x *rewindBox) untrash() {
	trash := map[mail.FolderID]bool{}
	for _, f := range x.folders {
		trash[f.ID] = f.SpecialUse == `\Trash`
	}
	elsewhere := map[mail.EmailID]bool{}
	for i := range x.live {
		if l := &x.live[i]; !trash[l.folder] && len(x.fresh[l.email]) > 0 {
			elsewhere[l.email] = true
		}
	}
	in, ok := byName(x.folders, "INBOX")
	if !ok {
		return
	}
	for i := range x.live {
		l := &x.live[i]
		if trash[l.folder] && !l.claimed && len(x.fresh[l.email]) > 0 && !elsewhere[l.email] {
			elsewhere[l.email] = true
			x.take(owed{m: mail.Message{Flags: l.flags &^ mail.Deleted, Keywords: l.words}, target: &in}, l)
		}
	}
}
