package e2e

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// TestNewcomer does what README.md shows: mail in at one server, out at
// another, and a server dies meanwhile.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	g := startLab(t, 12000, "--users", "3")
	u := g.file().Users[0].Address
	const first, second = "hello from server one", "hello again"
	must(t, deliver(t.Context(), g.server("MBX1").SMTP, u, letter(first, u)))
	r := g.login("MBX3", 0)
	read := func(want ...string) {
		t.Helper()
		soon(t, func() error {
			got, err := r.subjects("INBOX")
			if err != nil {
				return err
			}
			return sameSubjects(got, want)
		})
	}
	read(first)
	raw, err := r.body("INBOX", first)
	must(t, err)
	if !bytes.HasSuffix(raw, letter(first, u)) {
		t.Errorf("the message is not what was sent:\n%s", raw)
	}

	g.order("kill", "MBX1")
	// The same session: it was at a survivor and has to live through this.
	read(first)
	must(t, deliver(t.Context(), g.server("MBX2").SMTP, u, letter(second, u)))
	read(first, second)
	g.servedWithout("MBX1", 20*time.Second)

	g.back("MBX1")
	r = g.login("MBX1", 0)
	read(first, second)
	g.identical()
}

// TestLabGoesOn kills a whole lab in the middle of its life and starts it
// again on the same folder.
func TestLabGoesOn(t *testing.T) {
	t.Parallel()
	g := startLab(t, 12600, "--users", "3")
	var want []string
	u := g.file().Users[1].Address
	for i := range 5 {
		s := fmt.Sprintf("before the power cut %d", i)
		must(t, deliver(t.Context(), g.server("MBX2").SMTP, u, letter(s, u)))
		want = append(want, s)
	}
	must(t, g.cmd.Process.Kill())
	<-g.done
	again := resumeLab(t, g)
	again.inSync(time.Minute)
	r := again.login("MBX3", 1)
	soon(t, func() error {
		got, err := r.subjects("INBOX")
		if err != nil {
			return err
		}
		return sameSubjects(got, want)
	})
	again.identical()
}
