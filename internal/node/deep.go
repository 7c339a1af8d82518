package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// deep looks at doors as their users do: with a login, and something read or
// offered. It uses the health mailboxes of the databases, one after the other.
type deep struct {
	a    *atlas
	tls  *tls.Config
	next atomic.Uint32
}

// newDeep makes the probes' own way of using doors. Certificates are judged by
// the set Certificates; what is sent under this one's protection opens a mailbox
// that has nothing in it, for an hour, from the group's own servers.
func newDeep(a *atlas) *deep {
	return &deep{a: a, tls: &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(32)}}
}

// helloName is what probes say in EHLO.
const helloName = "health.invalid"

// box chooses a health mailbox: of a database that a server has active, else of
// any.
func (d *deep) box(server org.ServerName) (b directory.HealthBox, db org.DatabaseName, ok bool) {
	secret, dbs := d.a.boxes(server)
	if len(dbs) == 0 || len(secret) == 0 {
		return b, "", false
	}
	db = dbs[int(d.next.Add(1))%len(dbs)]
	return directory.NewHealthBox(secret, db, time.Now()), db, true
}

// judged is what a look is worth that a door answered with "not now" for reasons
// that are not its own.
func judged(db org.DatabaseName, text string, err error) (health.Reading, error) {
	switch {
	case kind.Is(err, kind.Busy):
		return health.Reading{Text: fmt.Sprintf("not judged with %s: %v", db, err)}, nil
	case err != nil:
		return health.Reading{}, fmt.Errorf("with the health mailbox of %s: %w", db, err)
	}
	return health.Reading{Text: strings.TrimSpace(string(db) + " " + text)}, nil
}

// use tries a door of a server with a health mailbox.
func (d *deep) use(ctx context.Context, server org.ServerName, addr string, implicit bool, how func(context.Context, string, bool, directory.HealthBox) (string, error)) (health.Reading, error) {
	b, db, ok := d.box(server)
	if !ok {
		return health.Reading{Text: "no database is mounted"}, nil
	}
	text, err := how(ctx, addr, implicit, b)
	return judged(db, text, err)
}

func (d *deep) atOnce(implicit bool) *tls.Config {
	if implicit {
		return d.tls
	}
	return nil
}

func (d *deep) later(implicit bool) *tls.Config {
	if implicit {
		return nil
	}
	return d.tls
}

// receive offers a message to the door for other mail systems, and takes that
// back when its recipient was taken.
func (d *deep) receive(ctx context.Context, addr string, _ bool, b directory.HealthBox) (string, error) {
	t, err := connect(ctx, addr, nil)
	if err != nil {
		return "", err
	}
	defer t.close()
	if err := t.hello(ctx, helloName, nil); err != nil {
		return "", err
	}
	return "", t.dialogue("MAIL FROM:<>", "RCPT TO:<"+b.Address.String()+">", "RSET", "QUIT")
}

// submission logs in and offers a message.
func (d *deep) submission(ctx context.Context, addr string, implicit bool, b directory.HealthBox) (string, error) {
	t, err := d.loggedIn(ctx, addr, implicit, b)
	if err != nil {
		return "", err
	}
	defer t.close()
	return "", t.dialogue("MAIL FROM:<"+b.Address.String()+">", "RCPT TO:<"+b.Address.String()+">", "RSET", "QUIT")
}

func (t *talk) dialogue(lines ...string) error {
	for _, l := range lines {
		if err := t.smtp(l, 2); err != nil {
			return err
		}
	}
	return nil
}

// loggedIn is a session of the submission door.
func (d *deep) loggedIn(ctx context.Context, addr string, implicit bool, b directory.HealthBox) (*talk, error) {
	t, err := connect(ctx, addr, d.atOnce(implicit))
	if err != nil {
		return nil, err
	}
	if err := t.hello(ctx, helloName, d.later(implicit)); err != nil {
		t.close()
		return nil, err
	}
	if err := t.plainAuth(b.Address.String(), b.Password); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// imap logs in and reads what is newest.
func (d *deep) imap(ctx context.Context, addr string, implicit bool, b directory.HealthBox) (string, error) {
	t, n, err := d.inbox(ctx, addr, implicit, b)
	if err != nil {
		return "", err
	}
	defer t.close()
	if n > 0 {
		if _, err := t.imap(fmt.Sprintf("FETCH %d (UID FLAGS RFC822.SIZE)", n)); err != nil {
			return "", err
		}
	}
	_, err = t.imap("LOGOUT")
	return strconv.Itoa(n) + " messages", err
}

// inbox is a session of the IMAP door with INBOX selected, and how many messages
// are in it.
func (d *deep) inbox(ctx context.Context, addr string, implicit bool, b directory.HealthBox) (t *talk, n int, err error) {
	if t, err = connect(ctx, addr, d.atOnce(implicit)); err != nil {
		return nil, 0, err
	}
	if n, err = t.enter(ctx, d.later(implicit), b); err != nil {
		t.close()
		return nil, 0, err
	}
	return t, n, nil
}

// enter logs in and selects INBOX, with TLS before where that has not begun.
func (t *talk) enter(ctx context.Context, secure *tls.Config, b directory.HealthBox) (n int, err error) {
	greeting, err := t.line()
	if err != nil {
		return 0, fmt.Errorf("greeting: %w", err)
	}
	if !strings.HasPrefix(greeting, "* OK") {
		return 0, fmt.Errorf("greeting is %q", greeting)
	}
	if secure != nil {
		if _, err := t.imap("STARTTLS"); err != nil {
			return 0, err
		}
		if err := t.secure(ctx, secure); err != nil {
			return 0, err
		}
	}
	if _, err := t.imap("LOGIN " + b.Address.String() + " " + b.Password); err != nil {
		return 0, err
	}
	lines, err := t.imap("SELECT INBOX")
	for _, l := range lines {
		if f := strings.Fields(l); len(f) == 3 && f[2] == "EXISTS" {
			n, _ = strconv.Atoi(f[1]) // 0 where it is no number
		}
	}
	return n, err
}

// flowDoors are the doors that mail goes through on this server.
type flowDoors struct{ submission, imap tryAddr }

// tryAddr is an address of a door; empty: there is none to try.
type tryAddr struct {
	addr     string
	implicit bool
}

// flow sends a message through this server into a health mailbox, waits until it
// can be read and removes it: the whole way of mail.
func (d *deep) flow(doors flowDoors) health.Look {
	return func(ctx context.Context, _ string) (health.Reading, error) {
		if !d.a.tried(org.Submission) || !d.a.tried(org.IMAPComponent) || !d.a.tried(org.Transport) {
			return health.Reading{Text: "not tried: a component is held back, or the server begins"}, nil
		}
		me := d.a.me()
		b, db, ok := d.box(me)
		if !ok {
			return health.Reading{Text: "no database is mounted"}, nil
		}
		begun := time.Now()
		err := d.sendAndRead(ctx, doors, b, me)
		r, err := judged(db, "", err)
		r.Value = time.Since(begun).Seconds()
		return r, err
	}
}

func (d *deep) sendAndRead(ctx context.Context, doors flowDoors, b directory.HealthBox, me org.ServerName) error {
	var id [12]byte
	rand.Read(id[:]) // never fails
	token := hex.EncodeToString(id[:])
	if err := d.send(ctx, doors.submission, b, me, token); err != nil {
		return fmt.Errorf("submission: %w", err)
	}
	t, n, err := d.inbox(ctx, doors.imap.addr, doors.imap.implicit, b)
	if err != nil {
		return fmt.Errorf("imap: %w", err)
	}
	defer t.close()
	if err := t.await(ctx, token); err != nil {
		return err
	}
	return t.tidy(me, n)
}

// probeSubject is what the subjects of a server's messages begin with.
func probeSubject(me org.ServerName) string { return "health probe of " + string(me) + " " }

func (d *deep) send(ctx context.Context, door tryAddr, b directory.HealthBox, me org.ServerName, token string) error {
	t, err := d.loggedIn(ctx, door.addr, door.implicit, b)
	if err != nil {
		return err
	}
	defer t.close()
	// The null sender gets no reports about what was not delivered.
	if err := t.dialogue("MAIL FROM:<>", "RCPT TO:<"+b.Address.String()+"> NOTIFY=NEVER"); err != nil {
		return err
	}
	if err := t.smtp("DATA", 3); err != nil {
		return err
	}
	text := []string{"From: <" + b.Address.String() + ">", "To: <" + b.Address.String() + ">", "Subject: " + probeSubject(me) + token,
		"Date: " + time.Now().UTC().Format(time.RFC1123Z), "Message-ID: <" + token + "@" + directory.HealthDomain + ">", "Auto-Submitted: auto-generated", "",
		"A message of Postern to itself, to see whether mail gets through.", "."}
	if err := t.smtp(strings.Join(text, "\r\n"), 2); err != nil {
		return err
	}
	return t.smtp("QUIT", 2)
}

// awaitEvery is the pause between two looks for a message.
const awaitEvery = 250 * time.Millisecond

// await looks for a message until it is there.
func (t *talk) await(ctx context.Context, token string) error {
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	for begun := time.Now(); ; {
		uids, err := t.search("HEADER Message-ID " + token)
		if err != nil {
			return fmt.Errorf("imap: %w", err)
		}
		if len(uids) > 0 {
			return nil
		}
		select {
		case <-tick.C:
			if _, err := t.imap("NOOP"); err != nil {
				return fmt.Errorf("imap, %v after it was accepted: %w", time.Since(begun).Round(time.Second), err)
			}
		case <-ctx.Done():
			return fmt.Errorf("the message was accepted and not delivered within %v", time.Since(begun).Round(time.Second))
		}
	}
}

func (t *talk) search(what string) (uids []string, err error) {
	lines, err := t.imap("UID SEARCH " + what)
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(l, "* SEARCH"); ok {
			uids = append(uids, strings.Fields(rest)...)
		}
	}
	return uids, err
}

// manyLeft is how many messages a health mailbox may have before all are removed,
// whoever sent them.
const manyLeft = 200

// tidy removes the messages of this server, also those of probes that were
// interrupted.
func (t *talk) tidy(me org.ServerName, n int) error {
	what := `SUBJECT "` + probeSubject(me) + `"`
	if n > manyLeft {
		what = "ALL"
	}
	uids, err := t.search(what)
	if err != nil {
		return fmt.Errorf("imap: %w", err)
	}
	for chunk := range slices.Chunk(uids, 100) {
		set := strings.Join(chunk, ",")
		for _, c := range []string{"UID STORE " + set + ` +FLAGS.SILENT (\Deleted)`, "UID EXPUNGE " + set} {
			if _, err := t.imap(c); err != nil {
				return fmt.Errorf("imap: %w", err)
			}
		}
	}
	_, err = t.imap("LOGOUT")
	return err
}
