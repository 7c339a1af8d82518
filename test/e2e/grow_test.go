package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/load"
	"github.com/postern-mail/postern/test/rig"
)

// TestGrowsToThree begins with `postern serve` on an empty folder, lets two
// servers join, loses members for good, the first one among them, and replaces
// them, by a server of another name and by one of the same, while mail comes in.
func TestGrowsToThree(t *testing.T) {
	t.Parallel()
	const base, user, password = 16200, "ann@example.test", "correct horse battery"
	root := t.TempDir()
	one := rig.NewHost(t, postern.Program, root, "MBX1", base, 1, rig.Extra{})
	one.Start()
	one.Whole(1)
	one.Do("organization", "create", "example")
	one.Do("domain", "add", "example.test", "--organization", "example")
	one.Do("mailbox", "create", user, "--database", "DB01", "--password", password)
	conf, err := load.Trust(filepath.Join(one.Dir, "cluster", "ca.pem"))
	must(t, err)
	var sent []string
	send := func(h *rig.Host, subject string) {
		t.Helper()
		eventually(t, 20*time.Second, subject, func() error { return deliver(t.Context(), h.SMTP(), user, letter(subject, user)) })
		sent = append(sent, subject)
	}
	read := func(h *rig.Host) {
		t.Helper()
		soon(t, func() error { return readsAll(t.Context(), h.IMAP(), conf, user, password, sent) })
	}
	send(one, "to a group of one")
	read(one)

	two, three := rig.NewHost(t, postern.Program, root, "MBX2", base, 2, rig.Extra{}), rig.NewHost(t, postern.Program, root, "MBX3", base, 3, rig.Extra{})
	one.Join(two)
	send(two, "at the second, without a copy there")
	one.Join(three)
	one.Do("copy", "add", "DB01", "MBX2")
	one.Do("copy", "add", "DB01", "MBX3")
	send(one, "while copies are seeded")
	one.Whole(3)
	for _, h := range []*rig.Host{one, two, three} {
		read(h)
	}
	must(t, one.Command(t.Context(), nil, "copy", "verify"))

	// The founder is lost with its disk.
	one.Die()
	must(t, os.RemoveAll(one.Dir))
	send(two, "without the founder")
	read(three)
	two.Do("copy", "remove", "DB01", "MBX1")
	two.Do("server", "remove", "MBX1", "--force")
	four := rig.NewHost(t, postern.Program, root, "MBX4", base, 4, rig.Extra{})
	two.Join(four)
	two.Do("copy", "add", "DB01", "MBX4")
	two.Whole(3)
	send(four, "with a replacement of another name")

	// Another one is lost, and comes back as a new machine of the same name.
	three.Die()
	must(t, os.RemoveAll(three.Dir))
	send(four, "without the third")
	again := rig.NewHost(t, postern.Program, root, "MBX3", base, 3, rig.Extra{})
	two.Join(again, "--replace")
	two.Whole(3)
	send(again, "with a replacement of the same name")
	must(t, two.Command(t.Context(), nil, "copy", "verify"))

	// What is left must do without those who knew it from the beginning.
	two.Die()
	for _, h := range []*rig.Host{four, again} {
		eventually(t, 20*time.Second, "all is read at "+h.Name, func() error {
			return readsAll(t.Context(), h.IMAP(), conf, user, password, sent)
		})
	}
}

// readsAll reads the whole INBOX and compares every byte behind the trace lines.
func readsAll(ctx context.Context, addr string, conf *tls.Config, user, password string, want []string) error {
	r, err := login(ctx, addr, conf, user, password)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := r.subjects("INBOX")
	if err != nil {
		return err
	}
	if err := sameSubjects(got, want); err != nil {
		return err
	}
	for _, s := range want {
		raw, err := r.body("INBOX", s)
		if err != nil {
			return err
		}
		if !bytes.HasSuffix(raw, letter(s, user)) {
			return fmt.Errorf("%q is not what was sent:\n%s", s, raw)
		}
	}
	return nil
}
