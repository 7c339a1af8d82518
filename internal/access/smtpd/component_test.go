package smtpd

import (
	"net"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

// wishes are the states of components as a test wants them.
type wishes struct {
	mu      sync.Mutex // guards the rest
	states  map[org.Component]org.ComponentState
	changed chan struct{}
}

func newWishes() *wishes {
	return &wishes{states: map[org.Component]org.ComponentState{}, changed: make(chan struct{})}
}

func (w *wishes) component(c org.Component) (org.ComponentState, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return org.Active.Stronger(w.states[c]), w.changed
}

func (w *wishes) set(c org.Component, s org.ComponentState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.states[c] = s
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) refused(t testing.TB, door string) {
	t.Helper()
	eventually(t, door+" is shut", func() bool {
		nc, err := net.Dial("tcp", w.addr(door))
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
}

// TestDraining: the door shuts, who waits between two messages hears 421 at
// once, who is in a message ends it first; other doors go on, and the door comes
// back at the same address.
func TestDraining(t *testing.T) {
	wish := newWishes()
	w := openWith(t, nil, func(d *Deps) { d.Component = wish.component })
	idle, within, user := dial(t, w.addr("receive")), dial(t, w.addr("receive")), dial(t, w.addr("submission"))
	within.say("EHLO c", "250")
	within.say("MAIL FROM:<joe@client.test>", "250")
	wish.set(org.SMTPComponent, org.Draining)
	idle.hear("421 4.3.2")
	idle.closed()
	w.refused(t, "receive")
	if state, left := w.Now(org.SMTPComponent); state != org.Draining || left != 1 {
		t.Errorf("%s with %d left", state, left)
	}
	within.say("RCPT TO:<ann@example.test>", "250")
	within.say("DATA", "354")
	within.write("Subject: x\r\n\r\nx\r\n.\r\n")
	within.hear("250")
	within.hear("421 4.3.2")
	within.closed()
	if n := len(w.queue.mailbox("ann")); n != 1 {
		t.Errorf("%d messages", n)
	}
	eventually(t, "nothing is left", func() bool { _, left := w.Now(org.SMTPComponent); return left == 0 })
	user.say("EHLO c", "250")

	wish.set(org.SMTPComponent, org.Active)
	eventually(t, "the door is open", func() bool {
		nc, err := net.Dial("tcp", w.addr("receive"))
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	if state, _ := w.Now(org.SMTPComponent); state != org.Active {
		t.Error(state)
	}
	dial(t, w.addr("receive")).say("EHLO c", "250")
}

// TestInactive: also those within a message hear 421 after their present command,
// and what they began is not taken.
func TestInactive(t *testing.T) {
	wish := newWishes()
	w := openWith(t, nil, func(d *Deps) { d.Component = wish.component })
	c := dial(t, w.addr("receive"))
	c.say("EHLO c", "250")
	c.say("MAIL FROM:<joe@client.test>", "250")
	wish.set(org.SMTPComponent, org.Inactive)
	c.hear("421 4.3.2")
	c.closed()
	w.refused(t, "receive")
	eventually(t, "it is Inactive", func() bool { state, _ := w.Now(org.SMTPComponent); return state == org.Inactive })
	dial(t, w.addr("submission")).say("EHLO c", "250")
}

// TestShutFromTheStart: a server that is started in maintenance is ready with its
// doors shut.
func TestShutFromTheStart(t *testing.T) {
	wish := newWishes()
	wish.set(org.SMTPComponent, org.Draining)
	wish.set(org.Submission, org.Inactive)
	w := openWith(t, nil, func(d *Deps) { d.Component = wish.component })
	for c, want := range map[org.Component]org.ComponentState{org.SMTPComponent: org.Draining, org.Submission: org.Inactive} {
		if state, left := w.Now(c); state != want || left != 0 || len(w.Addrs("receive")) != 0 {
			t.Errorf("%s is %s", c, state)
		}
	}
	wish.set(org.Submission, org.Active)
	eventually(t, "submission is open", func() bool { return len(w.Addrs("submissions")) == 1 })
	dial(t, w.addr("submission")).say("EHLO c", "250")
}
