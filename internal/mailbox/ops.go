package mailbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/mailbox/summary"
	"github.com/postern-mail/postern/internal/org"
)

// bodyChunk is the most a call for a body answers at a time.
const bodyChunk = 4 << 20

// leadWait bounds how long a request waits here for a mount that is under way.
const leadWait = 2 * time.Second

// leading returns the leading role of this copy, once it has it, or where to
// look instead.
func (c *dbCopy) leading(ctx context.Context) (*leader, error) {
	if l := c.awaitLead(ctx, 0, leadWait); l != nil {
		return l, nil
	}
	return nil, kind.Errorf(kind.Elsewhere, "%s is not active on %s", c.name, c.k.me)
}

// awaitReadable waits until reads may be answered here.
func (l *leader) awaitReadable(ctx context.Context) error {
	if err := l.wait(ctx, func() bool { return l.ready }); err != nil {
		return err
	}
	for end := time.Now().Add(leadWait); ; {
		if ok, _ := l.readable(); ok {
			return nil
		}
		if l.over() || time.Now().After(end) || !sleep(ctx, 5*time.Millisecond) {
			return kind.Errorf(kind.Busy, "%s on %s has not heard from its in-sync copies", l.c.name, l.c.k.me)
		}
	}
}

// read runs f on a snapshot of what is confirmed, where this copy may answer.
func read[A any](ctx context.Context, c *dbCopy, f func(*store.Reader) (A, error)) (A, error) {
	var zero A
	l, err := c.leading(ctx)
	if err != nil {
		return zero, err
	}
	if err := l.awaitReadable(ctx); err != nil {
		return zero, err
	}
	r := c.index().Reader()
	defer r.Close()
	a, err := f(r)
	if err != nil {
		return zero, err
	}
	// The lease has to hold at the moment of the answer, not of the question.
	if ok, _ := l.readable(); !ok {
		return zero, kind.Errorf(kind.Busy, "%s on %s lost its lease while reading", c.name, c.k.me)
	}
	return a, nil
}

// change runs a planned change and gives its result the type.
func change[A any](ctx context.Context, c *dbCopy, req any, grow bool) (A, error) {
	var zero A
	l, err := c.leading(ctx)
	if err != nil {
		return zero, err
	}
	v, err := l.submit(ctx, req, grow)
	if err != nil {
		return zero, err
	}
	a, ok := v.(A)
	if !ok {
		return zero, kind.Errorf(kind.Internal, "%s: answer is %T, want %T", c.name, v, zero)
	}
	return a, nil
}

// prepared does what can be done before the log is ordered.
func prepared[R interface{ Prepare() }](r R) R {
	r.Prepare()
	return r
}

// none is the answer of calls that have nothing to say.
type none struct{}

// The calls of the store (mail.Store).
var (
	opSetup = op[mail.MailboxSetup, none]{"Setup", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.MailboxSetup) (none, error) {
		l, err := c.leading(ctx)
		if err != nil {
			return none{}, err
		}
		_, err = l.submit(ctx, &store.SetupReq{Mailbox: at.ID, MailboxSetup: q}, !q.Remove)
		return none{}, err
	}}
	opDeliver = op[mail.Delivery, []mail.Delivered]{"Deliver", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q mail.Delivery) ([]mail.Delivered, error) {
		return change[[]mail.Delivered](ctx, c, prepared(&store.DeliverReq{Delivery: q, Summary: summary.Parse(q.Body)}), true)
	}}
	opAppend = op[mail.Append, mail.Appended]{"Append", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.Append) (mail.Appended, error) {
		return change[mail.Appended](ctx, c, prepared(&store.AppendReq{Mailbox: at.ID, Append: q, Summary: summary.Parse(q.Body)}), true)
	}}
	opFolders = op[none, []mail.Folder]{"Folders", func(ctx context.Context, c *dbCopy, at org.MailboxRef, _ none) ([]mail.Folder, error) {
		return read(ctx, c, func(r *store.Reader) ([]mail.Folder, error) { return r.Folders(at.ID) })
	}}
	opFolder = op[mail.FolderChange, mail.Folder]{"ChangeFolder", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.FolderChange) (mail.Folder, error) {
		return change[mail.Folder](ctx, c, &store.FolderReq{Mailbox: at.ID, FolderChange: q}, false)
	}}
	opMessages = op[mail.MessagesRequest, mail.Messages]{"Messages", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.MessagesRequest) (mail.Messages, error) {
		return read(ctx, c, func(r *store.Reader) (mail.Messages, error) {
			ms, err := r.Messages(at.ID, q)
			if err == nil && q.Headers {
				err = c.addHeaders(ctx, r, at.ID, &ms)
			}
			return ms, err
		})
	}}
	opBody = op[mail.BodyRequest, []byte]{"Body", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.BodyRequest) ([]byte, error) {
		return read(ctx, c, func(r *store.Reader) ([]byte, error) { return c.readBody(ctx, r, q) })
	}}
	opFlags = op[mail.FlagsChange, mail.FlagsChanged]{"ChangeFlags", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.FlagsChange) (mail.FlagsChanged, error) {
		return change[mail.FlagsChanged](ctx, c, &store.FlagsReq{Mailbox: at.ID, FlagsChange: q}, false)
	}}
	opExpunge = op[mail.Expunge, mail.Expunged]{"Expunge", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.Expunge) (mail.Expunged, error) {
		return change[mail.Expunged](ctx, c, &store.ExpungeReq{Mailbox: at.ID, Expunge: q}, false)
	}}
	opCopy = op[mail.CopyRequest, mail.Copied]{"Copy", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.CopyRequest) (mail.Copied, error) {
		return change[mail.Copied](ctx, c, &store.CopyReq{Mailbox: at.ID, CopyRequest: q}, !q.Move)
	}}
	opSearch = op[mail.SearchRequest, mail.Found]{"Search", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.SearchRequest) (mail.Found, error) {
		return read(ctx, c, func(r *store.Reader) (mail.Found, error) {
			if reflect.ValueOf(q.Criteria).IsZero() {
				return allOf(r, at.ID, q.Folder)
			}
			return r.Search(ctx, at.ID, q, func(b mail.BlobID) ([]byte, error) {
				return c.readBlob(ctx, r, b)
			})
		})
	}}
	opChanges = op[mail.ChangesRequest, mail.Changes]{"Changes", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q mail.ChangesRequest) (mail.Changes, error) {
		return read(ctx, c, func(r *store.Reader) (mail.Changes, error) { return r.Changes(at.ID, q) })
	}}
	opDelivered = op[deliveredRequest, deliveredAnswer]{"Delivered", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q deliveredRequest) (deliveredAnswer, error) {
		return read(ctx, c, func(r *store.Reader) (deliveredAnswer, error) {
			e, when, known, err := r.DeliveryKnown(at.ID, q.Identity)
			if !known || time.Since(time.Unix(0, when)) >= c.k.cfg.DuplicateWindow {
				return deliveredAnswer{}, err
			}
			return deliveredAnswer{Email: e, Known: true}, err
		})
	}}
	opUsage = op[none, mail.Usage]{"Usage", func(ctx context.Context, c *dbCopy, at org.MailboxRef, _ none) (mail.Usage, error) {
		return read(ctx, c, func(r *store.Reader) (mail.Usage, error) { return r.Usage(at.ID) })
	}}
)

// What one answer carries of headers, and how much of a message is read at
// first, as nearly all headers end in it.
const (
	headerFirst = 8 << 10
	headerMost  = 64 << 10
	headersMost = 4 << 20
)

// addHeaders adds raw headers to a page, and cuts it when it becomes large. A
// message without, because its header is long or cannot be read now, gets its
// summary, which tells where its header is: whoever reads it by itself gets
// the error.
func (c *dbCopy) addHeaders(ctx context.Context, r *store.Reader, id org.MailboxID, page *mail.Messages) error {
	total := 0
	for i := range page.Messages {
		m := &page.Messages[i]
		m.Header = c.header(ctx, r, m)
		total += len(m.Header)
		if m.Header == nil && m.Summary == nil {
			n, err := r.Summary(id, m)
			if err != nil {
				return err
			}
			total += n
		}
		if total >= headersMost && i+1 < len(page.Messages) {
			page.Messages, page.More = page.Messages[:i+1], true
			break
		}
	}
	return nil
}

// header reads the header of a message, nil where it is long or unreadable.
func (c *dbCopy) header(ctx context.Context, r *store.Reader, m *mail.Message) []byte {
	for _, most := range []int64{headerFirst, headerMost} {
		n := min(m.Size, most)
		if n <= 0 {
			return nil
		}
		// A body is named after the position where it was first written, and
		// mostly still stands there.
		b, err := c.jn.Body(org.LSN(m.Blob), 0, n)
		if err != nil {
			lsn, _, ok := r.Blob(m.Blob)
			if !ok {
				return nil
			}
			if b, err = c.body(ctx, lsn, 0, n); err != nil {
				return nil
			}
		}
		if end, whole := summary.HeaderEnd(b); whole || n == m.Size {
			return b[:end:end]
		}
	}
	return nil
}

// allOf answers a search for everything from the keys alone, as each SELECT
// asks it. The folder's mod-sequence stands for that of its newest message.
func allOf(r *store.Reader, id org.MailboxID, folder mail.FolderID) (mail.Found, error) {
	fs, err := r.Folders(id)
	if err != nil {
		return mail.Found{}, err
	}
	i := slices.IndexFunc(fs, func(f mail.Folder) bool { return f.ID == folder })
	if i < 0 {
		return mail.Found{}, kind.Errorf(kind.NotFound, "folder %d: no such folder", folder)
	}
	ranges, err := r.UIDs(id, folder)
	if err != nil {
		return mail.Found{}, err
	}
	found := mail.Found{UIDs: make([]mail.UID, 0, fs[i].Messages), HighestModSeq: fs[i].HighestModSeq}
	for _, x := range ranges {
		for u := x.First; u <= x.Last; u++ {
			found.UIDs = append(found.UIDs, u)
		}
	}
	return found, nil
}

// readBlob reads a whole message.
func (c *dbCopy) readBlob(ctx context.Context, r *store.Reader, b mail.BlobID) ([]byte, error) {
	lsn, size, ok := r.Blob(b)
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "message content %d does not exist", b)
	}
	return c.body(ctx, lsn, 0, size)
}

func (c *dbCopy) readBody(ctx context.Context, r *store.Reader, q mail.BodyRequest) ([]byte, error) {
	if q.Offset < 0 || q.Length < 0 {
		return nil, kind.Errorf(kind.Invalid, "body: offset %d, length %d", q.Offset, q.Length)
	}
	lsn, size, ok := r.Blob(q.Blob)
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "message content %d does not exist", q.Blob)
	}
	n := size - q.Offset
	if q.Length > 0 {
		n = min(n, q.Length)
	}
	n = min(n, bodyChunk)
	if n <= 0 {
		return nil, nil
	}
	return c.body(ctx, lsn, q.Offset, n)
}

// The question whether a mailbox got a delivery.
type (
	deliveredRequest struct {
		Identity [32]byte `cbor:"1,keyasint"`
	}
	deliveredAnswer struct {
		Email mail.EmailID `cbor:"1,keyasint"`
		Known bool         `cbor:"2,keyasint"`
	}
)

// Requests between copies.
type (
	markRequest struct {
		ID []byte `cbor:"1,keyasint"`
	}
	markAnswer struct {
		LSN org.LSN `cbor:"1,keyasint"`
	}
	scrubRequest struct {
		Rate int64 `cbor:"1,keyasint"`
	}
	handoverRequest struct {
		To org.ServerName `cbor:"1,keyasint"`
	}
	handoverAnswer struct {
		End  org.LSN  `cbor:"1,keyasint"`
		Term org.Term `cbor:"2,keyasint"`
	}
)

// method is an op whatever its types.
type method interface{ desc() grpc.MethodDesc }

// copyOps makes the calls between servers about a copy, by name.
func copyOps() map[string]method {
	return map[string]method{
		"Record": op[recordRequest, recordAnswer]{"Record", func(_ context.Context, c *dbCopy, _ org.MailboxRef, q recordRequest) (recordAnswer, error) {
			raw, err := c.jn.RawRecord(q.LSN)
			return recordAnswer{raw}, err
		}},
		"Mark": op[markRequest, markAnswer]{"Mark", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q markRequest) (markAnswer, error) {
			l, err := c.leading(ctx)
			if err != nil {
				return markAnswer{}, err
			}
			lsn, err := l.mark(ctx, q.ID)
			return markAnswer{lsn}, err
		}},
		"Digest": op[markRequest, digest]{"Digest", func(_ context.Context, c *dbCopy, _ org.MailboxRef, q markRequest) (digest, error) {
			d, ok := c.markers.get(fmt.Sprintf("%x", q.ID))
			if !ok {
				return d, kind.Errorf(kind.NotFound, "marker not reached")
			}
			return d, nil
		}},
		"Scrub": op[scrubRequest, scrubResult]{"Scrub", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q scrubRequest) (scrubResult, error) {
			res, err := c.scrub(ctx, q.Rate)
			res.Server = c.k.me
			return res, err
		}},
		"Handover": op[handoverRequest, handoverAnswer]{"Handover", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q handoverRequest) (handoverAnswer, error) {
			l, err := c.leading(ctx)
			if err != nil {
				return handoverAnswer{}, err
			}
			end, err := l.handover(ctx, q.To)
			return handoverAnswer{end, l.term}, err
		}},
		"Thaw": op[none, none]{"Thaw", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, _ none) (none, error) {
			l, err := c.leading(ctx)
			if err != nil {
				return none{}, err
			}
			return none{}, l.thaw(ctx)
		}},
		"Gather":  opGather(),
		"CatchUp": opCatchUp(),
		"Sums":    opSums(),
		"Past":    opPast(),
		"Reclaim": op[none, reclaimed]{"Reclaim", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, _ none) (reclaimed, error) {
			return c.reclaim(ctx, true)
		}},
	}
}

func serviceDesc() *grpc.ServiceDesc {
	d := &grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Watch", Handler: watchStream, ServerStreams: true,
	}}}
	for _, o := range []method{
		opSetup, opDeliver, opAppend, opFolders, opFolder, opMessages, opBody, opFlags, opExpunge, opCopy, opSearch, opChanges, opUsage, opDelivered,
		opMailboxes, opDeliveries, opForget,
	} {
		d.Methods = append(d.Methods, o.desc())
	}
	for _, o := range copyOps() {
		d.Methods = append(d.Methods, o.desc())
	}
	d.Methods = append(d.Methods, volumeMethod())
	slices.SortFunc(d.Methods, func(a, b grpc.MethodDesc) int {
		if a.MethodName < b.MethodName {
			return -1
		}
		return 1
	})
	return d
}

// newKey makes an idempotency key.
func newKey() mail.Key {
	var k mail.Key
	rand.Read(k[:]) // never fails (crypto/rand)
	return k
}
