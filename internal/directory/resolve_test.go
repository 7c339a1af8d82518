package directory

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

func TestResolve(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example", "a.smith@red.example")
	f.mailbox("bob@red.example")
	off := f.mailbox("off@red.example")
	yes := true
	f.must(f.ChangeMailbox(t.Context(), off.Address, MailboxChange{Disabled: &yes}))
	f.mailbox("gone@red.example")
	f.must(f.RemoveMailbox(t.Context(), addr("gone@red.example"), false))
	f.group("inner@red.example", "ann@red.example", "bob@red.example", "off@red.example")
	f.group("outer@red.example", "inner@red.example", "ann@red.example")
	f.group("empty@red.example")

	for _, c := range []struct {
		in   string
		want string // primary addresses' owners, sorted; or a kind
	}{
		{"ann@red.example", "ann@red.example"},
		{"ANN@Red.Example", "ann@red.example"},
		{"a.smith@red.example", "ann@red.example"},
		{"ann+lists@red.example", "ann@red.example"},
		{"a.smith+x+y@red.example", "ann@red.example"},
		{"outer@red.example", "ann@red.example bob@red.example"},
		{"outer+tag@red.example", "ann@red.example bob@red.example"},
		{"empty@red.example", kind.Denied.String()},
		{"off@red.example", kind.Denied.String()},
		{"gone@red.example", kind.NotFound.String()},
		{"nobody@red.example", kind.NotFound.String()},
		{"ann@blue.example", kind.NotFound.String()},
		{"postmaster@red.example", kind.NotFound.String()},
		{"ann@green.example", kind.Elsewhere.String()},
		{"ann@[192.0.2.1]", kind.Elsewhere.String()},
	} {
		res, err := f.Resolve(t.Context(), addr(c.in))
		got := kind.Of(err).String()
		if err == nil {
			got = f.names(res)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.in, got, c.want, err)
		}
	}
	if _, err := f.Resolve(t.Context(), mail.Address{}); !kind.Is(err, kind.Elsewhere) {
		t.Errorf("null sender: %v", err)
	}

	f.must(f.CreateAdministrator(t.Context(), "bob@red.example", "", []command.Role{command.OrganizationAdmin}, ""))
	if res, err := f.Resolve(t.Context(), addr("PostMaster@red.example")); err != nil || f.names(res) != "bob@red.example" {
		t.Errorf("postmaster: %v %v", res, err)
	}
}

func (f *fixture) names(res Resolution) string {
	var out []string
	for _, m := range res.Mailboxes {
		r, _ := f.ByID(res.Organization, m.Mailbox.ID)
		out = append(out, r.Address.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestHosted(t *testing.T) {
	f := newFixture(t, cheap())
	f.must(f.AddDomain(t.Context(), "red", "Bücher.example"))
	for domain, want := range map[string]bool{
		"red.example": true, "RED.EXAMPLE": true, "bücher.example": true, "xn--bcher-kva.example": true,
		"green.example": false, "": false, "[192.0.2.1]": false, "x.red.example": false,
	} {
		if f.Hosted(domain) != want {
			t.Errorf("%q hosted: %v", domain, !want)
		}
	}
}

func TestGroupLoopsRefused(t *testing.T) {
	f := newFixture(t, cheap())
	for _, g := range []string{"a", "b", "c"} {
		f.group(g + "@red.example")
	}
	f.must(f.AddMember(t.Context(), addr("a@red.example"), addr("b@red.example")))
	f.must(f.AddMember(t.Context(), addr("b@red.example"), addr("c@red.example")))
	for _, c := range [][2]string{{"c", "a"}, {"c", "b"}, {"a", "a"}, {"b", "a"}} {
		_, err := f.AddMember(t.Context(), addr(c[0]+"@red.example"), addr(c[1]+"@red.example"))
		wantKind(t, c[1]+" into "+c[0], err, kind.Invalid)
	}
	_, err := f.AddMember(t.Context(), addr("a@red.example"), addr("c@red.example"))
	if err != nil {
		t.Errorf("two ways to one group are no loop: %v", err)
	}
	_, err = f.AddMember(t.Context(), addr("a@red.example"), addr("c@red.example"))
	wantKind(t, "twice", err, kind.Exists)
}

// TestGroupLoopsRace puts two groups into each other at the same time, again
// and again: never both.
func TestGroupLoopsRace(t *testing.T) {
	f := newFixture(t, cheap())
	for _, g := range []string{"a", "b"} {
		f.group(g + "@red.example")
	}
	a, b := addr("a@red.example"), addr("b@red.example")
	for range 50 {
		errs := make(chan error, 2)
		for _, p := range [][2]mail.Address{{a, b}, {b, a}} {
			go func() {
				_, err := f.AddMember(t.Context(), p[0], p[1])
				errs <- err
			}()
		}
		e1, e2 := <-errs, <-errs
		if (e1 == nil) == (e2 == nil) {
			t.Fatalf("want exactly one refused: %v, %v", e1, e2)
		}
		f.RemoveMember(t.Context(), a, b)
		f.RemoveMember(t.Context(), b, a)
	}
}

func TestGroupBounds(t *testing.T) {
	o := cheap()
	o.MaxDepth, o.MaxExpansion, o.MaxMembers = 3, 4, 3
	f := newFixture(t, o)
	for _, g := range []string{"a", "b", "c", "d"} {
		f.group(g + "@red.example")
	}
	f.must(f.AddMember(t.Context(), addr("b@red.example"), addr("c@red.example")))
	f.must(f.AddMember(t.Context(), addr("a@red.example"), addr("b@red.example")))
	_, err := f.AddMember(t.Context(), addr("c@red.example"), addr("d@red.example"))
	wantKind(t, "fourth level below", err, kind.Invalid)
	_, err = f.AddMember(t.Context(), addr("d@red.example"), addr("a@red.example"))
	wantKind(t, "fourth level above", err, kind.Invalid)

	for _, m := range []string{"1", "2", "3", "4"} {
		f.mailbox(m + "@red.example")
	}
	for _, m := range []string{"1", "2", "3"} {
		f.must(f.AddMember(t.Context(), addr("c@red.example"), addr(m+"@red.example")))
	}
	if _, err := f.Resolve(t.Context(), addr("c@red.example")); err != nil {
		t.Error(err)
	}
	_, err = f.AddMember(t.Context(), addr("c@red.example"), addr("4@red.example"))
	wantKind(t, "too many members", err, kind.Invalid)
	_, err = f.Resolve(t.Context(), addr("a@red.example"))
	wantKind(t, "expands to too many", err, kind.Invalid)
}

// TestLoopInRows resolves rows that no change here would have written.
func TestLoopInRows(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	f.group("a@red.example", "ann@red.example")
	f.group("b@red.example", "a@red.example")
	v := f.mem.View()
	a, rev, _ := f.byAddress(v, addr("a@red.example"))
	b, _, _ := f.byAddress(v, addr("b@red.example"))
	a = a.clone()
	a.Members = append(a.Members, b.ID)
	err := f.change(t.Context(), func(View) (txn, error) {
		var x txn
		x.put(recipientKey("red", a.ID), rev, a)
		return x, nil
	})
	f.must(nil, err)
	res, err := f.Resolve(t.Context(), addr("a@red.example"))
	if err != nil || len(res.Mailboxes) != 1 {
		t.Errorf("%v %v", res, err)
	}
}

func TestMaySendAs(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example", "a.smith@red.example")
	f.mailbox("bob@red.example")
	f.mailbox("eve@blue.example")
	f.must(f.create(NewMailbox{Address: addr("info@red.example"), Shared: true}))
	f.group("team@red.example", "ann@red.example")
	f.must(f.GrantAccess(t.Context(), addr("info@red.example"), addr("ann@red.example"), true, false))
	f.must(f.GrantAccess(t.Context(), addr("team@red.example"), addr("ann@red.example"), true, false))
	f.must(f.GrantAccess(t.Context(), addr("info@red.example"), addr("bob@red.example"), false, true))
	ann, err := f.login("ann@red.example", secret, ServiceSubmission, "192.0.2.1")
	f.must(nil, err)
	for from, want := range map[string]bool{
		"ann@red.example": true, "Ann@RED.example": true, "a.smith@red.example": true, "ann+x@red.example": true,
		"info@red.example": true, "team@red.example": true, "bob@red.example": false, "eve@blue.example": false,
		"ann@blue.example": false, "ann@elsewhere.example": false, "nobody@red.example": false,
	} {
		if f.MaySendAs(ann, addr(from)) != want {
			t.Errorf("ann as %s: %v", from, !want)
		}
	}
	if f.MaySendAs(Account{}, addr("ann@red.example")) || f.MaySendAs(ann, mail.Address{}) {
		t.Error("nobody, or as nobody")
	}
	bob, err := f.login("bob@red.example", secret, ServiceSubmission, "192.0.2.1")
	f.must(nil, err)
	if f.MaySendAs(bob, addr("info@red.example")) {
		t.Error("access is not send-as")
	}
	if s := f.Shared(bob); len(s) != 1 || s[0].Address != addr("info@red.example") {
		t.Errorf("bob has %v", s)
	}
	if s := f.Shared(ann); len(s) != 0 {
		t.Errorf("send-as is not access: %v", s)
	}
	f.must(f.GrantAccess(t.Context(), addr("info@red.example"), addr("ann@red.example"), false, false))
	if f.MaySendAs(ann, addr("info@red.example")) {
		t.Error("taken back and still there")
	}
}

func (f *fixture) create(n NewMailbox) (Recipient, error) {
	r, _, err := f.CreateMailbox(f.t.Context(), n)
	return r, err
}
