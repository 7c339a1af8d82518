package directory

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// withFolders is boxes whose mailboxes can be looked at.
type withFolders struct{ *boxes }

func (b withFolders) Folders(_ context.Context, at org.MailboxRef) ([]mail.Folder, error) {
	if _, ok := b.get(at.ID); !ok {
		return nil, kind.Errorf(kind.NotFound, "no mailbox")
	}
	return nil, nil
}

// TestHealthMailbox: probes of the group get in from its servers; nobody else
// does, also not with what a probe knew hours ago, and nothing of it is seen.
func TestHealthMailbox(t *testing.T) {
	near, far := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("192.0.2.1")
	o := cheap()
	o.Health = HealthOptions{Secret: []byte("the group's"), Near: func(a netip.Addr) bool { return a == near }}
	f := newFixture(t, o)
	f.opt.Store = withFolders{f.store}
	box := NewHealthBox(o.Health.Secret, "DB01", time.Now())
	login := box.Address.String()

	acc, err := f.Authenticate(t.Context(), login, box.Password, ServiceIMAP, near)
	if err != nil || !acc.Health || acc.Mailbox.Database != "DB01" || acc.Organization != "" || len(acc.Roles) != 0 {
		t.Fatalf("%+v, %v", acc, err)
	}
	setup, ok := f.store.get(acc.Mailbox.ID)
	if !ok || setup.QuotaMessages == 0 || f.store.sets != 1 {
		t.Errorf("set up as %+v, %d times", setup, f.store.sets)
	}
	if _, err := f.Authenticate(t.Context(), login, box.Password, ServiceSubmission, near); err != nil || f.store.sets != 1 {
		t.Errorf("again: %v, set up %d times", err, f.store.sets)
	}
	if !f.MaySendAs(acc, box.Address) {
		t.Error("a probe may not use its own address")
	}
	dest, err := f.Destination(box.Address)
	if err != nil || !dest.Health || dest.Mailbox != acc.Mailbox || !f.Hosted(HealthDomain) {
		t.Errorf("%+v, %v", dest, err)
	}

	old := NewHealthBox(o.Health.Secret, "DB01", time.Now().Add(-3*time.Hour))
	gone := NewHealthBox(o.Health.Secret, "DB99", time.Now())
	other := NewHealthBox([]byte("another group's"), "DB01", time.Now())
	for name, try := range map[string]struct {
		box     HealthBox
		service string
		from    netip.Addr
	}{
		"from outside":  {box, ServiceIMAP, far},
		"as an admin":   {box, ServiceAdmin, near},
		"late":          {old, ServiceIMAP, near},
		"no database":   {gone, ServiceIMAP, near},
		"another group": {other, ServiceIMAP, near},
		"no password":   {HealthBox{Address: box.Address}, ServiceIMAP, near},
	} {
		if acc, err := f.Authenticate(t.Context(), try.box.Address.String(), try.box.Password, try.service, try.from); !kind.Is(err, kind.Denied) {
			t.Errorf("%s: %+v, %v", name, acc, err)
		}
	}
	for _, b := range []HealthBox{old, gone, other, {Address: mail.Address{Local: "h--DB01", Domain: HealthDomain}}, {Address: mail.Address{Local: "postmaster", Domain: HealthDomain}}} {
		if d, err := f.Destination(b.Address); !kind.Is(err, kind.NotFound) {
			t.Errorf("%s: %+v, %v", b.Address, d, err)
		}
		if f.MaySendAs(acc, b.Address) {
			t.Errorf("a probe may send as %s", b.Address)
		}
	}
	if _, ok := f.OrganizationOf(HealthDomain); ok || len(f.Mailboxes("")) != 0 {
		t.Error("it belongs to an organization")
	}

	f.store.fail(kind.Errorf(kind.Busy, "away"))
	delete(f.store.have, acc.Mailbox.ID)
	if _, err := f.Authenticate(t.Context(), login, box.Password, ServiceIMAP, near); !kind.Is(err, kind.Busy) {
		t.Errorf("while it cannot be made: %v", err)
	}
}

// TestHealthOff: without a secret there are no health mailboxes.
func TestHealthOff(t *testing.T) {
	f := newFixture(t, cheap())
	box := NewHealthBox(nil, "DB01", time.Now())
	if _, err := f.Destination(box.Address); !kind.Is(err, kind.Elsewhere) || f.Hosted(HealthDomain) {
		t.Error(err)
	}
	if _, err := f.Authenticate(t.Context(), box.Address.String(), box.Password, ServiceIMAP, netip.MustParseAddr("127.0.0.1")); !kind.Is(err, kind.Denied) {
		t.Error(err)
	}
}
