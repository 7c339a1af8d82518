package mailbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// recoverMailbox is the order to bring mail back from the past.
type recoverMailbox struct {
	Address mail.Address   `json:"address" arg:"1" required:"true" doc:"address of the mailbox"`
	At      string         `json:"at" required:"true" doc:"the moment, as in 2026-11-21T15:04:05Z, or how long ago, as in 2h or 3d"`
	Folder  string         `json:"folder" doc:"only this folder, by its name then"`
	Message string         `json:"message" doc:"only the message with this Message-ID"`
	InPlace bool           `json:"in_place" doc:"put messages into the folders they were in, instead of below one new folder"`
	Into    mail.Address   `json:"into" doc:"another mailbox that gets the messages"`
	From    org.ServerName `json:"from_server" doc:"server whose copy is asked; the one with the least to replay when not given" complete:"server list"`
	List    bool           `json:"list" doc:"only list what was there then, and whether it still is"`
	DryRun  bool           `json:"dry_run" doc:"only say what would be put back"`
}

// Recovered is a message of the past, and what became of it.
type Recovered struct {
	Folder    string    `json:"folder" col:"FOLDER"`
	Date      time.Time `json:"date" col:"DATE"`
	From      string    `json:"from" col:"FROM"`
	Subject   string    `json:"subject" col:"SUBJECT"`
	MessageID string    `json:"message_id" col:"-"`
	Size      int64     `json:"size" col:"SIZE"`
	Result    string    `json:"result" col:"RESULT"` // "is there", "missing", "restored", or why not
	To        string    `json:"to,omitempty" col:"-"`
	Server    string    `json:"server" col:"-"` // whose copy it comes from
}

// recoverRows bounds the answer; the rest is counted in a last row.
const recoverRows = 2000

// Results of a message of the past.
const (
	isThere    = "is there"
	isMissing  = "missing"
	isRestored = "restored"
	isLost     = "its content was given back to the disk before this copy kept it"
)

// recoverCommand is the entry of the command table.
func recoverCommand(k *Keeper) command.Command {
	return command.New(command.Command{Noun: "mailbox", Verb: "recover", Short: "Put messages back that were there at a moment and are not any more", Changes: true, Stream: true,
		Long: "Asks a lagged copy, or one with kept checkpoints, for the mailbox as it was at the moment, and copies what is missing now into the live mailbox, with its dates and flags: below a new folder " +
			"\"Restored ...\", or with --in-place into the folders it was in. What is still there, in whichever folder but the trash, is not doubled, however often this is run. A mailbox that was removed as a whole comes back by postern mailbox restore.",
		Example: "postern mailbox recover ann@example.org --at 2h --folder INBOX --in-place"}, k.recoverMailbox)
}

// Moment reads a moment: a time, or how long ago.
func Moment(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, strings.TrimSpace(s), time.UTC); err == nil {
			if t.After(now) {
				return t, kind.Errorf(kind.Invalid, "--at %q: that is still to come", s)
			}
			return t, nil
		}
	}
	d, err := parseLag("at", s)
	if err != nil || d == 0 {
		return now, kind.Errorf(kind.Invalid, "--at %q: want a time as in 2026-11-21T15:04:05Z, or how long ago as in 2h or 3d, at most 14d", s)
	}
	return now.Add(-d), nil
}

// Recovery says which mail of the past is to come back.
type Recovery struct {
	// From is the mailbox as it was, To the one that gets the messages, and Name
	// what people call the former.
	From, To org.MailboxRef
	Name     string
	At       time.Time
	// Folder and Message are a folder's name then and a Message-ID; empty for all.
	Folder, Message string
	// InPlace puts messages into the folders they were in, instead of below a new
	// one.
	InPlace bool
	// Copy is the server whose copy is asked, empty for the one with the least to
	// replay.
	Copy org.ServerName
	// List only lists, DryRun only says what would be put back.
	List, DryRun bool
}

// recovery is one that is under way.
type recovery struct {
	k        *Keeper
	in       Recovery
	at       time.Time
	from, to org.MailboxRef
	past     *Past
	live     *inventory
	made     map[string]bool // folders that are there
	rows     []Recovered
	more     int // rows that are not told
	restored int
}

func (k *Keeper) recoverMailbox(ctx context.Context, in recoverMailbox) ([]Recovered, error) {
	at, err := Moment(in.At, time.Now())
	if err != nil {
		return nil, err
	}
	r := Recovery{Name: in.Address.String(), At: at, Folder: in.Folder, Message: in.Message, InPlace: in.InPlace, Copy: in.From, List: in.List, DryRun: in.DryRun}
	if r.From, err = k.mailboxOf(in.Address); err != nil {
		return nil, err
	}
	r.To = r.From
	if !in.Into.IsZero() {
		if r.To, err = k.mailboxOf(in.Into); err != nil {
			return nil, err
		}
	}
	return k.Recover(ctx, r)
}

// Recover puts messages back that were in a mailbox at a moment and are not any
// more, and returns what became of each. Repeated, it doubles nothing. Errors:
// NotFound where no copy goes back so far, or the mailbox or folder was not there.
func (k *Keeper) Recover(ctx context.Context, in Recovery) (_ []Recovered, err error) {
	if in.InPlace && !in.List && !in.DryRun {
		if err := k.rewinding(in.To.Database); err != nil {
			return nil, err
		}
	}
	ctx = perCall{ctx}
	v := &recovery{k: k, in: in, at: in.At, from: in.From, to: in.To, made: map[string]bool{}}
	command.Progress(ctx, "looking for a copy of %s that shows %s", v.from.Database, v.at.UTC().Format(time.RFC3339))
	told := time.Time{}
	v.past, err = k.OpenPast(ctx, v.from.Database, v.at, in.Copy, func(done, total int64) {
		if time.Since(told) >= time.Second {
			told = time.Now()
			command.Progress(ctx, "replaying log: %d MiB of at most %d", done>>20, total>>20)
		}
	})
	if err != nil {
		return nil, err
	}
	defer v.past.Close()
	command.Progress(ctx, "the copy on %s shows it", v.past.Server)
	if v.live, err = k.takeInventory(ctx, v.to, v.to == v.from); err != nil {
		return nil, err
	}
	if err := v.run(ctx); err != nil {
		return v.rows, err
	}
	if v.more > 0 {
		v.rows = append(v.rows, Recovered{Result: fmt.Sprintf("and %d more", v.more)})
	}
	return v.rows, nil
}

// mailboxOf is where a mailbox is, also of one that was removed and can come back.
func (k *Keeper) mailboxOf(a mail.Address) (org.MailboxRef, error) {
	if k.deps.Mailbox != nil {
		if ref, ok := k.deps.Mailbox(a); ok {
			return ref, nil
		}
	}
	return org.MailboxRef{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no mailbox %s", a), "postern mailbox list")
}

// run goes through the folders of the past.
func (v *recovery) run(ctx context.Context) error {
	folders, err := v.past.Folders(ctx, v.from.ID)
	if err != nil {
		return fmt.Errorf("mailbox %s at %s: %w", v.in.Name, v.at.UTC().Format(time.RFC3339), err)
	}
	found := false
	for _, f := range folders {
		if v.in.Folder != "" && !strings.EqualFold(f.Name, v.in.Folder) {
			continue
		}
		found = true
		if err := v.folder(ctx, f); err != nil {
			return err
		}
		if !v.in.List && !v.in.DryRun {
			command.Progress(ctx, "%s: done, %d messages restored so far", f.Name, v.restored)
		}
	}
	if !found {
		return kind.Errorf(kind.NotFound, "mailbox %s had no folder %q then", v.in.Name, v.in.Folder)
	}
	return nil
}

// folder goes through the messages of a folder of the past.
func (v *recovery) folder(ctx context.Context, f mail.Folder) error {
	next := mail.UID(1)
	for {
		page, err := v.past.Messages(ctx, v.from.ID, mail.MessagesRequest{Folder: f.ID, Summaries: true, UIDs: []mail.UIDRange{{First: next, Last: 1<<32 - 1}}})
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if v.in.Message != "" && (m.Summary == nil || m.Summary.Envelope.MessageID != strings.Trim(v.in.Message, "<> ")) {
				continue
			}
			if err := v.message(ctx, f, m); err != nil {
				return err
			}
		}
		if !page.More || len(page.Messages) == 0 {
			return nil
		}
		if next = page.Messages[len(page.Messages)-1].UID + 1; next == 0 {
			return nil
		}
	}
}

// message deals with one message of the past.
func (v *recovery) message(ctx context.Context, f mail.Folder, m mail.Message) error {
	row := Recovered{Folder: f.Name, Date: m.Time().UTC(), Size: m.Size, Server: string(v.past.Server)}
	if m.Summary != nil {
		e := m.Summary.Envelope
		row.Subject, row.MessageID = e.Subject, e.MessageID
		if len(e.From) > 0 {
			row.From = e.From[0].Mailbox + "@" + e.From[0].Host
		}
	}
	target := v.target(f)
	if v.live.knows(m) {
		row.Result = isThere
		if v.in.List {
			v.tell(row)
		}
		return nil
	}
	if v.in.List && !v.live.maybe(m) {
		row.Result = isMissing
		v.tell(row)
		return nil
	}
	body, err := v.past.Body(ctx, m)
	if kind.Is(err, kind.NotFound) {
		row.Result = isLost
		v.tell(row)
		return nil
	}
	if err != nil {
		return err
	}
	there, err := v.live.holds(ctx, v.k, v.to, m, body)
	switch {
	case err != nil:
		return err
	case there && !v.in.List:
		return nil
	case there:
		row.Result = isThere
	case v.in.List || v.in.DryRun:
		row.Result = isMissing
	default:
		if err := v.put(ctx, f, target, m, body); err != nil {
			return fmt.Errorf("put a message of %d bytes into %s: %w", m.Size, target, err)
		}
		row.Result, row.To = isRestored, target
		v.restored++
	}
	v.tell(row)
	return nil
}

// tell adds a row to the answer, while there is room.
func (v *recovery) tell(r Recovered) {
	if len(v.rows) < recoverRows {
		v.rows = append(v.rows, r)
		return
	}
	v.more++
}

// target is the folder that gets the messages of a folder of the past.
func (v *recovery) target(f mail.Folder) string {
	if !v.in.InPlace {
		return "Restored " + v.at.UTC().Format("2006-01-02 15.04.05") + "/" + f.Name
	}
	if v.to == v.from {
		for _, now := range v.live.folders { // it may have another name by now
			if now.ID == f.ID {
				return now.Name
			}
		}
	}
	return f.Name
}

// put puts a message into the live mailbox. Repeating it within an hour changes
// nothing, whoever repeats it.
func (v *recovery) put(ctx context.Context, f mail.Folder, target string, m mail.Message, body []byte) error {
	cl := v.k.Client()
	if !v.made[target] {
		if !slices.ContainsFunc(v.live.folders, func(now mail.Folder) bool { return strings.EqualFold(now.Name, target) }) {
			_, err := cl.ChangeFolder(ctx, v.to, mail.FolderChange{Op: "create", Name: target})
			if err != nil && !kind.Is(err, kind.Exists) {
				return err
			}
		}
		v.made[target] = true
	}
	b := append([]byte("recover"), v.to.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Blob))
	b = binary.BigEndian.AppendUint32(b, uint32(f.ID))
	b = binary.BigEndian.AppendUint32(b, uint32(m.UID))
	b = binary.BigEndian.AppendUint64(b, uint64(v.at.UnixNano()))
	sum := sha256.Sum256(append(b, target...))
	_, err := cl.Append(ctx, v.to, mail.Append{Key: mail.Key(sum[:16]), Folder: target, Flags: m.Flags &^ mail.Deleted,
		Keywords: m.Keywords, InternalDate: m.InternalDate, Body: body})
	if err == nil {
		v.live.add(m, target, sum256(body))
	}
	return err
}

func sum256(b []byte) *[32]byte {
	s := sha256.Sum256(b)
	return &s
}

// inventory is what a live mailbox holds, as far as it tells whether a message of
// the past is there.
type inventory struct {
	folders []mail.Folder
	// emails are the folders outside of the trash in which an email is; nil for
	// a mailbox that is not the one the messages come from.
	emails map[mail.EmailID][]string
	// alike are the messages, outside of the trash, by size and date.
	alike map[likeness][]liveMessage
}

type likeness struct {
	size, date int64
}

type liveMessage struct {
	blob   mail.BlobID
	folder string
	sum    *[32]byte // of its bytes, nil while they were not read
}

// takeInventory goes through a live mailbox.
func (k *Keeper) takeInventory(ctx context.Context, at org.MailboxRef, same bool) (*inventory, error) {
	cl := k.Client()
	folders, err := cl.Folders(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("look at the mailbox as it is: %w", err)
	}
	v := &inventory{folders: folders, alike: map[likeness][]liveMessage{}}
	if same {
		v.emails = map[mail.EmailID][]string{}
	}
	for _, f := range folders {
		if f.SpecialUse == `\Trash` {
			continue
		}
		next := mail.UID(1)
		for {
			page, err := cl.Messages(ctx, at, mail.MessagesRequest{Folder: f.ID, UIDs: []mail.UIDRange{{First: next, Last: 1<<32 - 1}}})
			if kind.Is(err, kind.NotFound) {
				break // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			for _, m := range page.Messages {
				if m.Flags&mail.Deleted != 0 {
					continue // about to go
				}
				if same {
					v.emails[m.Email] = append(v.emails[m.Email], f.Name)
				}
				l := likeness{m.Size, m.InternalDate}
				v.alike[l] = append(v.alike[l], liveMessage{blob: m.Blob, folder: f.Name})
			}
			if !page.More || len(page.Messages) == 0 {
				break
			}
			next = page.Messages[len(page.Messages)-1].UID + 1
		}
	}
	return v, nil
}

// knows tells, without reading bytes, that a message is there.
func (v *inventory) knows(m mail.Message) bool { return len(v.emails[m.Email]) > 0 }

// maybe tells that a message may be there: one of its size and date is.
func (v *inventory) maybe(m mail.Message) bool {
	return len(v.alike[likeness{m.Size, m.InternalDate}]) > 0
}

// holds tells that a message with these bytes is there.
func (v *inventory) holds(ctx context.Context, k *Keeper, at org.MailboxRef, m mail.Message, body []byte) (bool, error) {
	want := sha256.Sum256(body)
	all := v.alike[likeness{m.Size, m.InternalDate}]
	for i := range all {
		l := &all[i]
		if l.sum == nil {
			b, err := k.wholeBody(ctx, at, l.blob, m.Size)
			if kind.Is(err, kind.NotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return false, err
			}
			l.sum = sum256(b)
		}
		if bytes.Equal(l.sum[:], want[:]) {
			return true, nil
		}
	}
	return false, nil
}

// add notes a message that was put there.
func (v *inventory) add(m mail.Message, folder string, sum *[32]byte) {
	if v.emails != nil {
		v.emails[m.Email] = append(v.emails[m.Email], folder)
	}
	l := likeness{m.Size, m.InternalDate}
	v.alike[l] = append(v.alike[l], liveMessage{folder: folder, sum: sum})
}

// wholeBody reads a message of a live mailbox.
func (k *Keeper) wholeBody(ctx context.Context, at org.MailboxRef, blob mail.BlobID, size int64) ([]byte, error) {
	var out []byte
	for int64(len(out)) < size {
		b, err := k.Client().Body(ctx, at, mail.BodyRequest{Blob: blob, Offset: int64(len(out))})
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			break
		}
		out = append(out, b...)
	}
	return out, nil
}
