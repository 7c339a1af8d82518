package imapd

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// memStore is a mail.Store that works, in memory. before is called at the
// beginning of each call, where a test may let it wait or fail like a store
// whose database fails over.
type memStore struct {
	mu     sync.Mutex
	boxes  map[org.MailboxID]*memBox
	before func(ctx context.Context, op string) error
	calls  map[string]int
}

type memBox struct {
	store   *memStore
	modseq  mail.ModSeq
	next    mail.FolderID
	blobs   map[mail.BlobID][]byte
	folders []*memFolder
	watches map[*memWatch]bool
	answers map[mail.Key]any
	quota   int64
}

type memFolder struct {
	mail.Folder
	msgs    []*mail.Message
	gone    []memGone
	horizon mail.ModSeq // changes up to here were forgotten
}

type memGone struct {
	uid mail.UID
	at  mail.ModSeq
}

type memWatch struct {
	box *memBox
	c   chan struct{}
	any bool // what comes may be of anything
}

func (w *memWatch) C() <-chan struct{} { return w.c }

func (w *memWatch) Newest() mail.ModSeq {
	w.box.store.mu.Lock()
	defer w.box.store.mu.Unlock()
	if w.any {
		w.any = false
		return mail.AnyModSeq
	}
	return w.box.modseq
}

func (w *memWatch) Close() {
	w.box.store.mu.Lock()
	defer w.box.store.mu.Unlock()
	delete(w.box.watches, w)
}

func newMemStore() *memStore {
	return &memStore{boxes: map[org.MailboxID]*memBox{}, calls: map[string]int{}}
}

// box finds a mailbox and locks the store.
func (s *memStore) box(ctx context.Context, at org.MailboxRef, op string) (*memBox, error) {
	s.mu.Lock()
	s.calls[op]++
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx, op); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, kind.Errorf(kind.Busy, "%s: %w", op, err)
	}
	s.mu.Lock()
	b := s.boxes[at.ID]
	if b == nil {
		s.mu.Unlock()
		return nil, kind.Errorf(kind.NotFound, "no such mailbox")
	}
	return b, nil
}

// setBefore installs a hook.
func (s *memStore) setBefore(f func(ctx context.Context, op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// called is how often an operation was asked for.
func (s *memStore) called(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

func (b *memBox) changed() mail.ModSeq {
	b.modseq++
	for w := range b.watches {
		select {
		case w.c <- struct{}{}:
		default:
		}
	}
	return b.modseq
}

// ping tells all watches that something changed, as after a failover.
func (s *memStore) ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.boxes {
		for w := range b.watches {
			w.any = true
			select {
			case w.c <- struct{}{}:
			default:
			}
		}
	}
}

// once answers a repeated change as it was answered before.
func once[T any](b *memBox, k mail.Key, f func() (T, error)) (T, error) {
	if a, ok := b.answers[k]; ok && k != (mail.Key{}) {
		return a.(T), nil
	}
	v, err := f()
	if err == nil {
		b.answers[k] = v
	}
	return v, err
}

func (b *memBox) folder(match func(*memFolder) bool) *memFolder {
	i := slices.IndexFunc(b.folders, match)
	if i < 0 {
		return nil
	}
	return b.folders[i]
}

func (b *memBox) byName(name string) *memFolder {
	return b.folder(func(f *memFolder) bool { return f.Name == name })
}

func (b *memBox) byID(id mail.FolderID) *memFolder {
	return b.folder(func(f *memFolder) bool { return f.ID == id })
}

func (b *memBox) addFolder(name, use string) *memFolder {
	b.next++
	f := &memFolder{Folder: mail.Folder{ID: b.next, Name: name, UIDValidity: 1000 + uint32(b.next), UIDNext: 1, SpecialUse: use, Subscribed: name == "INBOX"}}
	f.HighestModSeq = b.changed()
	b.folders = append(b.folders, f)
	return f
}

// meta is the folder with its counters.
func (f *memFolder) meta() mail.Folder {
	m := f.Folder
	m.Messages, m.Unseen, m.Deleted, m.Size = uint32(len(f.msgs)), 0, 0, 0
	for _, x := range f.msgs {
		if x.Flags&mail.Seen == 0 {
			m.Unseen++
		}
		if x.Flags&mail.Deleted != 0 {
			m.Deleted++
		}
		m.Size += x.Size
	}
	return m
}

func (s *memStore) Setup(_ context.Context, at org.MailboxRef, r mail.MailboxSetup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[at.ID]
	if b == nil {
		b = &memBox{store: s, blobs: map[mail.BlobID][]byte{}, watches: map[*memWatch]bool{}, answers: map[mail.Key]any{}}
		s.boxes[at.ID] = b
		b.addFolder("INBOX", "")
		b.addFolder("Sent", `\Sent`)
		b.addFolder("Drafts", `\Drafts`)
		b.addFolder("Trash", `\Trash`)
	}
	b.quota = r.QuotaBytes
	return nil
}

func (s *memStore) Deliver(ctx context.Context, d mail.Delivery) ([]mail.Delivered, error) {
	var out []mail.Delivered
	for _, r := range d.Recipients {
		a, err := s.Append(ctx, r.Mailbox, mail.Append{Folder: "INBOX", Body: d.Body, InternalDate: d.Date})
		if err != nil {
			return nil, err
		}
		out = append(out, mail.Delivered{Mailbox: r.Mailbox, UID: a.UID})
	}
	return out, nil
}

func (b *memBox) add(f *memFolder, m mail.Message) *mail.Message {
	m.UID, m.ModSeq = f.UIDNext, b.changed()
	m.Created, m.SaveDate = m.ModSeq, time.Now().UnixNano()
	f.UIDNext++
	f.HighestModSeq = m.ModSeq
	f.msgs = append(f.msgs, &m)
	return &m
}

func (s *memStore) Append(ctx context.Context, at org.MailboxRef, r mail.Append) (mail.Appended, error) {
	b, err := s.box(ctx, at, "append")
	if err != nil {
		return mail.Appended{}, err
	}
	defer s.mu.Unlock()
	return once(b, r.Key, func() (mail.Appended, error) {
		f := b.byName(r.Folder)
		if f == nil {
			return mail.Appended{}, kind.Errorf(kind.NotFound, "no folder")
		}
		if b.quota > 0 && int64(len(r.Body)) > b.quota {
			return mail.Appended{}, kind.Errorf(kind.Full, "quota")
		}
		if r.InternalDate == 0 {
			r.InternalDate = time.Now().UnixNano()
		}
		id := mail.BlobID(len(b.blobs) + 1)
		b.blobs[id] = slices.Clone(r.Body)
		m := b.add(f, mail.Message{Flags: r.Flags, Keywords: r.Keywords, Blob: id, Size: int64(len(r.Body)), InternalDate: r.InternalDate})
		return mail.Appended{UIDValidity: f.UIDValidity, UID: m.UID, ModSeq: m.ModSeq}, nil
	})
}

func (s *memStore) Folders(ctx context.Context, at org.MailboxRef) ([]mail.Folder, error) {
	b, err := s.box(ctx, at, "folders")
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var out []mail.Folder
	for _, f := range b.folders {
		out = append(out, f.meta())
	}
	return out, nil
}

func (s *memStore) ChangeFolder(ctx context.Context, at org.MailboxRef, r mail.FolderChange) (mail.Folder, error) {
	b, err := s.box(ctx, at, "changefolder")
	if err != nil {
		return mail.Folder{}, err
	}
	defer s.mu.Unlock()
	return once(b, r.Key, func() (mail.Folder, error) {
		f := b.byName(r.Name)
		if r.Op == "create" {
			if f != nil {
				return mail.Folder{}, kind.Errorf(kind.Exists, "folder exists")
			}
			return b.addFolder(r.Name, r.SpecialUse).meta(), nil
		}
		if f == nil {
			return mail.Folder{}, kind.Errorf(kind.NotFound, "no folder")
		}
		switch r.Op {
		case "delete":
			b.folders = slices.DeleteFunc(b.folders, func(x *memFolder) bool { return x == f })
		case "rename":
			if b.byName(r.NewName) != nil {
				return mail.Folder{}, kind.Errorf(kind.Exists, "folder exists")
			}
			if f.Name == "INBOX" {
				to := b.addFolder(r.NewName, "")
				for _, m := range f.msgs {
					b.add(to, *m)
				}
				b.remove(f, func(*mail.Message) bool { return true })
				return to.meta(), nil
			}
			for _, x := range b.folders {
				if rest, below := strings.CutPrefix(x.Name, r.Name+"/"); below {
					x.Name = r.NewName + "/" + rest
				}
			}
			f.Name = r.NewName
		case "subscribe":
			f.Subscribed = true
		case "unsubscribe":
			f.Subscribed = false
		}
		f.HighestModSeq = b.changed()
		return f.meta(), nil
	})
}

func inRanges(set []mail.UIDRange, u mail.UID) bool {
	return slices.ContainsFunc(set, func(r mail.UIDRange) bool { return r.First <= u && u <= r.Last })
}

func (s *memStore) Messages(ctx context.Context, at org.MailboxRef, r mail.MessagesRequest) (mail.Messages, error) {
	b, err := s.box(ctx, at, "messages")
	if err != nil {
		return mail.Messages{}, err
	}
	defer s.mu.Unlock()
	f := b.byID(r.Folder)
	if f == nil {
		return mail.Messages{}, kind.Errorf(kind.NotFound, "no folder")
	}
	limit := 7 // small, so that paging is used
	if r.Limit > 0 {
		limit = min(limit, r.Limit)
	}
	out := mail.Messages{Folder: f.meta()}
	for _, m := range f.msgs {
		if r.UIDs != nil && !inRanges(r.UIDs, m.UID) || m.ModSeq <= r.ChangedSince {
			continue
		}
		if len(out.Messages) == limit {
			out.More = true
			break
		}
		c := *m
		// Every second header is left out, as a store may.
		if r.Summaries || r.Headers && m.UID%2 == 0 {
			c.Summary = summarize(b.blobs[m.Blob])
		}
		if r.Headers && m.UID%2 == 1 {
			c.Header = b.blobs[m.Blob][:summarize(b.blobs[m.Blob]).Structure.BodyStart]
		}
		out.Messages = append(out.Messages, c)
	}
	return out, nil
}

func (s *memStore) Body(ctx context.Context, at org.MailboxRef, r mail.BodyRequest) ([]byte, error) {
	b, err := s.box(ctx, at, "body")
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	text, ok := b.blobs[r.Blob]
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "no body")
	}
	text = text[min(r.Offset, int64(len(text))):]
	if r.Length > 0 {
		text = text[:min(r.Length, int64(len(text)))]
	}
	return slices.Clone(text[:min(len(text), 4<<20)]), nil
}

func (s *memStore) ChangeFlags(ctx context.Context, at org.MailboxRef, r mail.FlagsChange) (mail.FlagsChanged, error) {
	b, err := s.box(ctx, at, "changeflags")
	if err != nil {
		return mail.FlagsChanged{}, err
	}
	defer s.mu.Unlock()
	return once(b, r.Key, func() (mail.FlagsChanged, error) {
		f := b.byID(r.Folder)
		if f == nil {
			return mail.FlagsChanged{}, kind.Errorf(kind.NotFound, "no folder")
		}
		var out mail.FlagsChanged
		for _, m := range f.msgs {
			if !inRanges(r.UIDs, m.UID) {
				continue
			}
			if r.UnchangedSince != nil && m.ModSeq > *r.UnchangedSince {
				out.Modified = append(out.Modified, mail.UIDRange{First: m.UID, Last: m.UID})
				continue
			}
			flags, words := m.Flags, slices.Clone(m.Keywords)
			switch r.Op {
			case "set":
				flags, words = r.Flags, slices.Clone(r.Keywords)
			case "add":
				flags |= r.Flags
				words = append(words, r.Keywords...)
			case "remove":
				flags &^= r.Flags
				words = slices.DeleteFunc(words, func(w string) bool { return slices.Contains(r.Keywords, w) })
			}
			slices.Sort(words)
			words = slices.Compact(words)
			if flags != m.Flags || !slices.Equal(words, m.Keywords) {
				if !out.Changed {
					out.Changed, f.HighestModSeq = true, b.changed()
				}
				m.Flags, m.Keywords, m.ModSeq = flags, words, f.HighestModSeq
			}
			out.Messages = append(out.Messages, *m)
		}
		out.ModSeq = f.HighestModSeq
		return out, nil
	})
}

func (b *memBox) remove(f *memFolder, match func(*mail.Message) bool) (out mail.Expunged) {
	f.msgs = slices.DeleteFunc(f.msgs, func(m *mail.Message) bool {
		if !match(m) {
			return false
		}
		f.HighestModSeq = b.changed()
		f.gone = append(f.gone, memGone{m.UID, f.HighestModSeq})
		out.UIDs = append(out.UIDs, mail.UIDRange{First: m.UID, Last: m.UID})
		return true
	})
	out.ModSeq = f.HighestModSeq
	return out
}

func (s *memStore) Expunge(ctx context.Context, at org.MailboxRef, r mail.Expunge) (mail.Expunged, error) {
	b, err := s.box(ctx, at, "expunge")
	if err != nil {
		return mail.Expunged{}, err
	}
	defer s.mu.Unlock()
	return once(b, r.Key, func() (mail.Expunged, error) {
		f := b.byID(r.Folder)
		if f == nil {
			return mail.Expunged{}, kind.Errorf(kind.NotFound, "no folder")
		}
		return b.remove(f, func(m *mail.Message) bool {
			return (r.UIDs == nil || inRanges(r.UIDs, m.UID)) && (!r.OnlyDeleted || m.Flags&mail.Deleted != 0)
		}), nil
	})
}

func (s *memStore) Copy(ctx context.Context, at org.MailboxRef, r mail.CopyRequest) (mail.Copied, error) {
	b, err := s.box(ctx, at, "copy")
	if err != nil {
		return mail.Copied{}, err
	}
	defer s.mu.Unlock()
	return once(b, r.Key, func() (mail.Copied, error) {
		f, to := b.byID(r.Folder), b.byName(r.Target)
		if f == nil || to == nil {
			return mail.Copied{}, kind.Errorf(kind.NotFound, "no folder")
		}
		out := mail.Copied{UIDValidity: to.UIDValidity}
		for _, m := range slices.Clone(f.msgs) {
			if inRanges(r.UIDs, m.UID) {
				out.Source = append(out.Source, m.UID)
				out.Target = append(out.Target, b.add(to, *m).UID)
			}
		}
		if r.Move {
			b.remove(f, func(m *mail.Message) bool { return slices.Contains(out.Source, m.UID) })
		}
		return out, nil
	})
}

func (s *memStore) Changes(ctx context.Context, at org.MailboxRef, r mail.ChangesRequest) (mail.Changes, error) {
	b, err := s.box(ctx, at, "changes")
	if err != nil {
		return mail.Changes{}, err
	}
	defer s.mu.Unlock()
	f := b.byID(r.Folder)
	if f == nil {
		return mail.Changes{Gone: true}, nil
	}
	out := mail.Changes{Folder: f.meta()}
	if r.Since < f.horizon {
		out.Reset = true
		return out, nil
	}
	for _, m := range f.msgs {
		if m.ModSeq > r.Since {
			out.Messages = append(out.Messages, *m)
		}
	}
	for _, g := range f.gone {
		if g.at > r.Since {
			out.Vanished = append(out.Vanished, mail.UIDRange{First: g.uid, Last: g.uid})
		}
	}
	return out, nil
}

func (s *memStore) Usage(ctx context.Context, at org.MailboxRef) (mail.Usage, error) {
	b, err := s.box(ctx, at, "usage")
	if err != nil {
		return mail.Usage{}, err
	}
	defer s.mu.Unlock()
	return mail.Usage{QuotaBytes: b.quota, ModSeq: b.modseq}, nil
}

func (s *memStore) Watch(at org.MailboxRef) mail.Watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[at.ID]
	w := &memWatch{box: b, c: make(chan struct{}, 1)}
	b.watches[w] = true
	return w
}
