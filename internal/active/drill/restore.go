package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// Mail is what exercises with mail need of mailboxes; mail.Store is one.
type Mail interface {
	Store
	ChangeFolder(ctx context.Context, at org.MailboxRef, r mail.FolderChange) (mail.Folder, error)
	Body(ctx context.Context, at org.MailboxRef, r mail.BodyRequest) ([]byte, error)
}

// Restored is what became of mail that was destroyed to be recovered.
type Restored struct {
	Database org.DatabaseName `json:"database" col:"DATABASE"`
	Folder   string           `json:"folder" col:"FOLDER"`
	// Copy is the server whose copy showed the past.
	Copy     org.ServerName `json:"copy,omitempty" col:"FROM-COPY"`
	Messages int            `json:"messages" col:"MESSAGES"`
	Bytes    int64          `json:"bytes" col:"BYTES"`
	Written  time.Time      `json:"written" col:"WRITTEN"`
	// At is the moment of the past that was asked for.
	At        time.Time     `json:"at" col:"-"`
	Destroyed time.Time     `json:"destroyed,omitzero" col:"DESTROYED"`
	Recovered time.Time     `json:"recovered,omitzero" col:"RECOVERED"`
	Took      time.Duration `json:"took" col:"TOOK"`
	// Missing did not come back, Different came back otherwise than they were,
	// twice, or were never there.
	Missing   int `json:"missing" col:"MISSING"`
	Different int `json:"different" col:"DIFFERENT"`
	// Digest is the SHA-256 over content, dates and flags of all messages as
	// they were written, Found as they were read in the end.
	Digest string `json:"digest" col:"-"`
	Found  string `json:"found,omitempty" col:"-"`
}

// fault says what is wrong with a recovery, empty for nothing.
func (r Restored) fault() string {
	switch {
	case r.Recovered.IsZero():
		return fmt.Sprintf("the mail that was destroyed in %s was not recovered", r.Database)
	case r.Missing+r.Different > 0 || r.Digest != r.Found:
		return fmt.Sprintf("of %d messages recovered in %s %d are missing and %d are not as they were", r.Messages, r.Database, r.Missing, r.Different)
	}
	return ""
}

// What is written, destroyed and recovered: a folder of the health mailbox.
const (
	restoredPrefix = "drills/restored/"
	folderPrefix   = "Drill "
	// clocks is how far the clocks of two servers may be apart: what is written
	// is that much older than the moment, what is destroyed that much younger.
	clocks = time.Second
)

// letterSizes are the sizes of the messages, in bytes.
func letterSizes() []int { return []int{600, 4 << 10, 16 << 10, 64 << 10, 256 << 10} }

// letter is a message that is written: it follows from the drill and its number,
// so whoever carries the drill out knows what has to come back.
func letter(drill string, n int, begun time.Time) mail.Append {
	seed := sha256.Sum256(fmt.Appendf(nil, "postern drill letter\x00%s\x00%d", drill, n))
	var b bytes.Buffer
	fmt.Fprintf(&b, "Subject: drill %s, letter %d\r\nMessage-ID: <%x@drill.invalid>\r\n\r\n", drill, n, seed[:12])
	for sum := seed; b.Len() < letterSizes()[n]; sum = sha256.Sum256(sum[:]) {
		fmt.Fprintf(&b, "%x\r\n", sum)
	}
	a := mail.Append{Folder: folderPrefix + drill, InternalDate: begun.Add(time.Duration(n) * time.Hour).Truncate(time.Second).UnixNano(), Body: b.Bytes()}
	if n%2 == 1 {
		a.Flags, a.Keywords = mail.Seen|mail.Flagged, []string{"$Drill"}
	}
	return a
}

// identityOf is the digest of a message: content, date, flags and keywords.
func identityOf(body []byte, date int64, flags mail.Flags, keywords []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%d\x00%s\x00", date, flags, strings.Join(keywords, " "))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// digestOf is the digest of many.
func digestOf(ids []string) string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	h := sha256.Sum256([]byte(strings.Join(ids, "\n")))
	return hex.EncodeToString(h[:])
}

// letters are all of a drill, and their digests.
func letters(p org.Plan) (all []mail.Append, ids []string, size int64) {
	for n := range letterSizes() {
		a := letter(p.ID, n, p.Created.Add(-240*time.Hour))
		all, ids, size = append(all, a), append(ids, identityOf(a.Body, a.InternalDate, a.Flags, a.Keywords)), size+int64(len(a.Body))
	}
	return all, ids, size
}

// compare tells how many of the messages that were written are missing among
// those that were found, and how many of these were not written.
func compare(written, found []string) (missing, different int) {
	left := map[string]int{}
	for _, id := range found {
		left[id]++
	}
	for _, id := range written {
		if left[id] > 0 {
			left[id]--
			continue
		}
		missing++
	}
	for _, n := range left {
		different += n
	}
	return missing, different
}

// restored is the row of a drill.
func (k Kind) restored(drill string) (r Restored, ok bool) {
	it, ok := k.Library.World.View().Get(restoredPrefix + drill)
	ok = ok && json.Unmarshal(it.Value, &r) == nil
	return r, ok
}

func saveRestored(ctx context.Context, pen *plan.Pen, r Restored) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return pen.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: restoredPrefix + pen.Plan.ID, Value: b}}})
}

// folderIn is the folder of a drill in the health mailbox, false where it is not
// there.
func (k Kind) folderIn(ctx context.Context, at org.MailboxRef, drill string) (mail.Folder, bool, error) {
	all, err := k.World.Mail().Folders(ctx, at)
	i := slices.IndexFunc(all, func(f mail.Folder) bool { return f.Name == folderPrefix+drill })
	if err != nil || i < 0 {
		return mail.Folder{}, false, err
	}
	return all[i], true, nil
}

// sweep removes the folders of drills from the health mailbox, those of
// drills before too.
func (k Kind) sweep(ctx context.Context, at org.MailboxRef) error {
	all, err := k.World.Mail().Folders(ctx, at)
	for _, f := range all {
		if err == nil && strings.HasPrefix(f.Name, folderPrefix) {
			_, err = k.World.Mail().ChangeFolder(ctx, at, mail.FolderChange{Op: "delete", Name: f.Name})
			if kind.Is(err, kind.NotFound) {
				err = nil
			}
		}
	}
	return err
}

// write puts messages into a folder of the health mailbox, and notes the moment
// at which they are there. What is taken back is the folder, with whatever came
// back into it.
func (k Kind) write(o Order, p org.Plan) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			r, ok := k.restored(p.ID)
			return plan.Finding{Done: ok, Note: fmt.Sprintf("%d messages, %d bytes, SHA-256 %.16s", r.Messages, r.Bytes, r.Digest), Wait: "for messages in the health mailbox of " + string(o.Database)}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			at, err := k.World.HealthMailbox(ctx, o.Database)
			if err != nil {
				return err
			}
			if err := k.sweep(ctx, at); err != nil {
				return err
			}
			if _, err := k.World.Mail().ChangeFolder(ctx, at, mail.FolderChange{Op: "create", Name: folderPrefix + p.ID}); err != nil && !kind.Is(err, kind.Exists) {
				return err
			}
			all, ids, size := letters(p)
			for _, a := range all {
				if _, err := k.World.Mail().Append(ctx, at, a); err != nil {
					return err
				}
			}
			now := k.Library.Now().UTC()
			return saveRestored(ctx, pen, Restored{Database: o.Database, Folder: folderPrefix + p.ID, Messages: len(all), Bytes: size,
				Written: now, At: now.Add(clocks), Digest: digestOf(ids)})
		},
		Undo: func(ctx context.Context, _ *plan.Pen) error { return k.tidyUp(ctx, o) }}
}

func (k Kind) tidyUp(ctx context.Context, o Order) error {
	at, err := k.World.HealthMailbox(ctx, o.Database)
	if kind.Is(err, kind.NotFound) {
		return nil // the database was removed meanwhile
	}
	if err != nil {
		return err
	}
	return k.sweep(ctx, at)
}

// destroy removes the folder for good, once the moment to come back to is over.
func (k Kind) destroy(o Order, p org.Plan) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			r, _ := k.restored(p.ID)
			return plan.Finding{Done: !r.Destroyed.IsZero(), Wait: "for the folder to be removed"}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			r, ok := k.restored(p.ID)
			if !ok {
				return kind.Errorf(kind.Conflict, "what was written is not on record")
			}
			select {
			case <-time.After(r.At.Add(clocks).Sub(k.Library.Now())):
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := k.tidyUp(ctx, o); err != nil {
				return err
			}
			r.Destroyed = k.Library.Now().UTC()
			return saveRestored(ctx, pen, r)
		}}
}

// recover brings the folder back as postern mailbox recover does, and reads what
// came.
func (k Kind) recover(o Order, p org.Plan) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			r, _ := k.restored(p.ID)
			if r.Recovered.IsZero() {
				return plan.Finding{Wait: fmt.Sprintf("for what was there at %s", r.At.Format(time.RFC3339))}
			}
			fault := r.fault()
			return plan.Finding{Done: fault == "", Stop: fault, Note: fmt.Sprintf("%d messages from the copy on %s in %s", r.Messages-r.Missing, r.Copy, r.Took.Round(time.Millisecond))}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			r, ok := k.restored(p.ID)
			if !ok || r.Destroyed.IsZero() {
				return kind.Errorf(kind.Conflict, "nothing that was destroyed is on record")
			}
			at, err := k.World.HealthMailbox(ctx, o.Database)
			if err != nil {
				return err
			}
			begun := k.Library.Now()
			rows, err := k.World.Recover(ctx, mailbox.Recovery{From: at, To: at, Name: "of health in " + string(o.Database), At: r.At, Folder: r.Folder, InPlace: true})
			if err != nil {
				return err
			}
			if len(rows) > 0 {
				r.Copy = org.ServerName(rows[0].Server)
			}
			found, err := k.read(ctx, at, p.ID)
			if err != nil {
				return err
			}
			_, ids, _ := letters(p)
			r.Missing, r.Different = compare(ids, found)
			r.Found, r.Recovered = digestOf(found), k.Library.Now().UTC()
			r.Took = r.Recovered.Sub(begun)
			return saveRestored(ctx, pen, r)
		}}
}

// read reads the folder of a drill: the digests of its messages.
func (k Kind) read(ctx context.Context, at org.MailboxRef, drill string) (out []string, err error) {
	f, ok, err := k.folderIn(ctx, at, drill)
	if err != nil || !ok {
		return nil, err
	}
	got, err := k.World.Mail().Messages(ctx, at, mail.MessagesRequest{Folder: f.ID, Limit: 10 * len(letterSizes())})
	if err != nil {
		return nil, err
	}
	for _, m := range got.Messages {
		var body []byte
		for int64(len(body)) < m.Size {
			b, err := k.World.Mail().Body(ctx, at, mail.BodyRequest{Blob: m.Blob, Offset: int64(len(body))})
			if err != nil {
				return nil, err
			}
			if len(b) == 0 {
				break // shorter than it was: it counts as another
			}
			body = append(body, b...)
		}
		out = append(out, identityOf(body, m.InternalDate, m.Flags, m.Keywords))
	}
	return out, nil
}

// tidy removes the folder again.
func (k Kind) tidy(o Order, p org.Plan) plan.Step {
	return plan.Step{
		Check: func(ctx context.Context) plan.Finding {
			at, err := k.World.HealthMailbox(ctx, o.Database)
			if err != nil {
				return plan.Finding{Wait: err.Error()}
			}
			_, there, err := k.folderIn(ctx, at, p.ID)
			return plan.Finding{Done: err == nil && !there, Wait: "for the health mailbox to be as it was"}
		},
		Do: func(ctx context.Context, _ *plan.Pen) error { return k.tidyUp(ctx, o) }}
}
