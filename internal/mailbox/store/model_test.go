package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// model is what the index should hold, written down as plainly as possible.
type model struct {
	boxes  map[org.MailboxID]*mBox
	graves map[org.MailboxID]mail.ModSeq
}

type mBox struct {
	modseq  mail.ModSeq
	quota   int64 // messages
	folders map[string]*mFolder
	subs    map[string]bool
	seen    map[string]bool // delivery identities, by subject
}

type mFolder struct {
	next    mail.UID
	changed mail.ModSeq
	msgs    map[mail.UID]mMsg
}

type mMsg struct {
	subject string // stands for the content
	flags   mail.Flags
	words   string
	modseq  mail.ModSeq
	created mail.ModSeq
}

func newModel() *model {
	return &model{boxes: map[org.MailboxID]*mBox{}, graves: map[org.MailboxID]mail.ModSeq{}}
}

func (m *model) clone() *model {
	out := newModel()
	maps.Copy(out.graves, m.graves)
	for id, b := range m.boxes {
		nb := &mBox{modseq: b.modseq, quota: b.quota, folders: map[string]*mFolder{}, subs: maps.Clone(b.subs), seen: maps.Clone(b.seen)}
		for name, f := range b.folders {
			nb.folders[name] = &mFolder{next: f.next, changed: f.changed, msgs: maps.Clone(f.msgs)}
		}
		out.boxes[id] = nb
	}
	return out
}

func (b *mBox) count() (n int64) {
	for _, f := range b.folders {
		n += int64(len(f.msgs))
	}
	return n
}

func (b *mBox) add(name string) *mFolder {
	f := &mFolder{next: 1, changed: b.modseq, msgs: map[mail.UID]mMsg{}}
	b.folders[name] = f
	return f
}

func (b *mBox) put(f *mFolder, msg mMsg) mail.UID {
	uid := f.next
	f.next++
	msg.modseq, msg.created, f.changed = b.modseq, b.modseq, b.modseq
	f.msgs[uid] = msg
	return uid
}

func (m *model) setup(id org.MailboxID, quota int64, remove bool) {
	b := m.boxes[id]
	switch {
	case remove && b != nil:
		m.graves[id] = b.modseq + 1
		delete(m.boxes, id)
	case remove:
	case b == nil:
		b = &mBox{modseq: m.graves[id] + 1, quota: quota, folders: map[string]*mFolder{}, subs: map[string]bool{}, seen: map[string]bool{}}
		m.boxes[id] = b
		for _, f := range firstFolders() {
			b.add(f.Name)
			b.subs[f.Name] = true
		}
	case b.quota != quota:
		b.quota = quota
		b.modseq++
	}
}

func (m *model) deliver(subject string, to []org.MailboxID) []mail.Delivered {
	var out []mail.Delivered
	bumped := map[org.MailboxID]bool{}
	for _, id := range to {
		d := mail.Delivered{Mailbox: org.MailboxRef{ID: id}}
		b := m.boxes[id]
		switch {
		case b == nil:
			d.RefusedKind = uint8(kind.NotFound)
		case b.seen[subject]:
			d.Duplicate = true
		case b.quota > 0 && b.count() >= b.quota:
			d.RefusedKind = uint8(kind.Full)
		default:
			if !bumped[id] {
				b.modseq++
				bumped[id] = true
			}
			b.seen[subject] = true
			d.UID = b.put(b.folders[inbox], mMsg{subject: subject})
		}
		out = append(out, d)
	}
	return out
}

func (m *model) appendTo(id org.MailboxID, folder, subject string, flags mail.Flags) (mail.UID, kind.Kind, bool) {
	b := m.boxes[id]
	if b == nil || b.folders[folder] == nil {
		return 0, kind.NotFound, false
	}
	if b.quota > 0 && b.count() >= b.quota {
		return 0, kind.Full, false
	}
	b.modseq++
	return b.put(b.folders[folder], mMsg{subject: subject, flags: flags}), 0, true
}

func inAny(uids []mail.UIDRange, u mail.UID) bool { return uids == nil || holds(normalize(uids), u) }

func (m *model) flags(id org.MailboxID, folder string, c *mail.FlagsChange) (modified []mail.UID) {
	b := m.boxes[id]
	f := b.folders[folder]
	bumped := false
	for _, u := range slices.Sorted(maps.Keys(f.msgs)) {
		msg := f.msgs[u]
		if !inAny(c.UIDs, u) {
			continue
		}
		if c.UnchangedSince != nil && msg.modseq > *c.UnchangedSince {
			modified = append(modified, u)
			continue
		}
		was := msg
		words := map[string]bool{}
		for _, w := range strings.Fields(msg.words) {
			words[w] = true
		}
		switch c.Op {
		case "add":
			msg.flags |= c.Flags
		case "remove":
			msg.flags &^= c.Flags
		case "set":
			msg.flags = c.Flags
			clear(words)
		}
		for _, w := range c.Keywords {
			if c.Op == "remove" {
				delete(words, w)
			} else {
				words[w] = true
			}
		}
		msg.words = strings.Join(slices.Sorted(maps.Keys(words)), " ")
		if msg == was {
			continue
		}
		if !bumped {
			b.modseq++
			bumped = true
		}
		msg.modseq, f.changed = b.modseq, b.modseq
		f.msgs[u] = msg
	}
	return modified
}

func (m *model) expunge(id org.MailboxID, folder string, uids []mail.UIDRange, onlyDeleted bool) (gone []mail.UID) {
	b := m.boxes[id]
	f := b.folders[folder]
	for _, u := range slices.Sorted(maps.Keys(f.msgs)) {
		if inAny(uids, u) && (!onlyDeleted || f.msgs[u].flags&mail.Deleted != 0) {
			gone = append(gone, u)
			delete(f.msgs, u)
		}
	}
	if gone != nil {
		b.modseq++
		f.changed = b.modseq
	}
	return gone
}

func (m *model) copy(id org.MailboxID, folder, target string, uids []mail.UIDRange, move bool) (from, to []mail.UID, full bool) {
	b := m.boxes[id]
	f, t := b.folders[folder], b.folders[target]
	for _, u := range slices.Sorted(maps.Keys(f.msgs)) {
		if inAny(uids, u) {
			from = append(from, u)
		}
	}
	if !move && b.quota > 0 && b.count()+int64(len(from)) > b.quota && len(from) > 0 {
		return nil, nil, true
	}
	if from == nil {
		return nil, nil, false
	}
	b.modseq++
	for _, u := range from {
		msg := f.msgs[u]
		if move {
			delete(f.msgs, u)
			f.changed = b.modseq
		}
		to = append(to, b.put(t, msg))
	}
	return from, to, false
}

// folder tells whether the change is possible and makes it.
func (m *model) folder(id org.MailboxID, op, name, to string) (kind.Kind, bool) {
	b := m.boxes[id]
	f := b.folders[name]
	switch op {
	case "create":
		if f != nil {
			return kind.Exists, false
		}
		b.modseq++
		b.add(name)
	case "delete":
		if name == inbox {
			return kind.Invalid, false
		}
		if f == nil {
			return kind.NotFound, false
		}
		b.modseq++
		delete(b.folders, name)
	case "subscribe", "unsubscribe":
		if on := op == "subscribe"; b.subs[name] != on {
			b.modseq++
			b.subs[name] = on
			if f != nil {
				f.changed = b.modseq
			}
		}
	case "rename":
		return m.rename(b, name, to)
	}
	return 0, true
}

func (m *model) rename(b *mBox, name, to string) (kind.Kind, bool) {
	f := b.folders[name]
	switch {
	case f == nil:
		return kind.NotFound, false
	case b.folders[to] != nil:
		return kind.Exists, false
	case name == inbox:
		b.modseq++
		t := b.add(to)
		for _, u := range slices.Sorted(maps.Keys(f.msgs)) {
			b.put(t, f.msgs[u])
			delete(f.msgs, u)
			f.changed = b.modseq
		}
		return 0, true
	case strings.HasPrefix(to, name+"/"):
		return kind.Invalid, false
	}
	names := []string{name}
	for n := range b.folders {
		if strings.HasPrefix(n, name+"/") {
			names = append(names, n)
			if b.folders[to+n[len(name):]] != nil {
				return kind.Exists, false
			}
		}
	}
	b.modseq++
	moved := map[string]*mFolder{}
	for _, n := range names {
		moved[to+n[len(name):]] = b.folders[n]
		b.folders[n].changed = b.modseq
		delete(b.folders, n)
	}
	maps.Copy(b.folders, moved)
	return 0, true
}

// describe writes a mailbox down for comparison.
func (m *model) describe(id org.MailboxID) string {
	b := m.boxes[id]
	if b == nil {
		return "none"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "modseq %d messages %d\n", b.modseq, b.count())
	for _, name := range slices.Sorted(maps.Keys(b.folders)) {
		f := b.folders[name]
		unseen, deleted := 0, 0
		for _, msg := range f.msgs {
			if msg.flags&mail.Seen == 0 {
				unseen++
			}
			if msg.flags&mail.Deleted != 0 {
				deleted++
			}
		}
		fmt.Fprintf(&s, "%s next %d highest %d messages %d unseen %d deleted %d sub %v\n",
			name, f.next, f.changed, len(f.msgs), unseen, deleted, b.subs[name])
		for _, u := range slices.Sorted(maps.Keys(f.msgs)) {
			msg := f.msgs[u]
			fmt.Fprintf(&s, "  %d %s %d %q %d %d\n", u, msg.subject, msg.flags, msg.words, msg.modseq, msg.created)
		}
	}
	return s.String()
}

// describeIndex writes a mailbox down as model.describe does.
func describeIndex(r *Reader, id org.MailboxID) (string, error) {
	u, err := r.Usage(id)
	if kind.Is(err, kind.NotFound) {
		return "none", nil
	}
	if err != nil {
		return "", err
	}
	folders, err := r.Folders(id)
	if err != nil {
		return "", err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "modseq %d messages %d\n", u.ModSeq, u.Messages)
	slices.SortFunc(folders, func(a, b mail.Folder) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range folders {
		fmt.Fprintf(&s, "%s next %d highest %d messages %d unseen %d deleted %d sub %v\n",
			f.Name, f.UIDNext, f.HighestModSeq, f.Messages, f.Unseen, f.Deleted, f.Subscribed)
		page, err := r.Messages(id, mail.MessagesRequest{Folder: f.ID, Summaries: true})
		if err != nil {
			return "", err
		}
		for _, m := range page.Messages {
			fmt.Fprintf(&s, "  %d %s %d %q %d %d\n", m.UID, m.Summary.Envelope.Subject, m.Flags,
				strings.Join(m.Keywords, " "), m.ModSeq, m.Created)
		}
	}
	return s.String(), nil
}
