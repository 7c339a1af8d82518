package directory

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// boxes is a store that only knows which mailboxes it has.
type boxes struct {
	mail.Store // what Setup does not need is not there

	mu   sync.Mutex // guards all below
	have map[org.MailboxID]mail.MailboxSetup
	err  error
	sets int
}

func (b *boxes) Setup(_ context.Context, at org.MailboxRef, r mail.MailboxSetup) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	b.sets++
	if r.Remove {
		delete(b.have, at.ID)
	} else {
		b.have[at.ID] = r
	}
	return nil
}

func (b *boxes) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *boxes) get(id org.MailboxID) (mail.MailboxSetup, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.have[id]
	return s, ok
}

type fixture struct {
	*Directory
	t     *testing.T
	mem   *Memory
	store *boxes
}

// cheap hashes keep the tests fast; the bounds are the same.
func cheap() Options {
	return Options{HashMemory: 64, HashPasses: 1, Hashes: 2}
}

// newFixture has two organizations, red and blue, with a domain each.
func newFixture(t *testing.T, o Options) *fixture {
	t.Helper()
	f := &fixture{t: t, mem: NewMemory("DB01", "DB02"), store: &boxes{have: map[org.MailboxID]mail.MailboxSetup{}}}
	o.Store = f.store
	f.Directory = New(f.mem, o)
	for _, id := range []string{"red", "blue"} {
		f.must(f.CreateOrganization(t.Context(), org.OrganizationID(id), ""))
		f.must(f.AddDomain(t.Context(), org.OrganizationID(id), id+".example"))
	}
	return f
}

func (f *fixture) must(_ any, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func addr(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

// secret is the password of all mailboxes of the tests.
const secret = "correct horse"

func (f *fixture) mailbox(address string, aliases ...string) Recipient {
	f.t.Helper()
	n := NewMailbox{Address: addr(address), Password: secret}
	for _, a := range aliases {
		n.Aliases = append(n.Aliases, addr(a))
	}
	r, _, err := f.CreateMailbox(f.t.Context(), n)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fixture) group(address string, members ...string) {
	f.t.Helper()
	f.must(f.CreateGroup(f.t.Context(), addr(address), ""))
	for _, m := range members {
		f.must(f.AddMember(f.t.Context(), addr(address), addr(m)))
	}
}

func (f *fixture) login(login, password, service, from string) (Account, error) {
	return f.Authenticate(f.t.Context(), login, password, service, netip.MustParseAddr(from))
}

func wantKind(t *testing.T, what string, err error, k kind.Kind) {
	t.Helper()
	if !kind.Is(err, k) {
		t.Errorf("%s: %v, want %s", what, err, k)
	}
}

// as is a caller bound to an organization.
func as(ctx context.Context, o string, roles ...command.Role) context.Context {
	return command.WithCaller(ctx, command.Caller{Name: "x@" + o, Organization: o, Roles: roles})
}
