package directory

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// say writes a destination in few words.
func (f *fixture) say(a string) string {
	d, err := f.Destination(addr(a))
	if err != nil {
		return kind.Of(err).String()
	}
	out := string(d.Kind) + " " + d.Address.String()
	if d.CatchAll {
		out += " catch-all"
	}
	if len(d.Members) > 0 {
		out += fmt.Sprintf(" %d members", len(d.Members))
	}
	if len(d.Forward) > 0 {
		out += " forward " + strings.Join(texts(d.Forward), ",")
	}
	if d.Keep {
		out += " keep"
	}
	if d.Route != "" {
		out += " route " + d.Route
	}
	if d.Kind == KindMailbox && (d.Mailbox.ID != d.ID || d.Mailbox.Database == "") {
		out += " nowhere"
	}
	return out
}

func TestDestination(t *testing.T) {
	f := newFixture(t, cheap())
	f.must(f.AddDomain(t.Context(), "red", "two.example"))
	f.must(f.AddDomain(t.Context(), "red", "three.example"))
	f.mailbox("ann@red.example", "a.smith@red.example", "ann@two.example")
	f.mailbox("bob@red.example")
	f.mailbox("carl@red.example")
	f.mailbox("off@red.example")
	f.mailbox("gone@red.example")
	f.group("team@red.example", "ann@red.example", "bob@red.example")
	for _, c := range [][2]string{
		{"mailbox set", `{"address":"off@red.example","disabled":true}`},
		{"mailbox set", `{"address":"bob@red.example","forward":["bob@else.example","ann+bob@red.example","BOB@else.example"],"forward_keep":true,"language":"DE-at","max_message":1000}`},
		{"mailbox set", `{"address":"carl@red.example","route":"cloud"}`},
		{"domain set", `{"domain":"two.example","catch_all":"a.smith@red.example","no_plus":true}`},
		{"domain set", `{"domain":"three.example","route":"cloud"}`},
	} {
		f.must(f.call(t.Context(), c[0], c[1]))
	}
	f.must(f.RemoveMailbox(t.Context(), addr("gone@red.example"), false))
	for _, c := range []struct{ in, want string }{
		{"ann@red.example", "mailbox ann@red.example"},
		{"A.Smith+x@Red.example", "mailbox ann@red.example"},
		{"bob@red.example", "mailbox bob@red.example forward bob@else.example,ann+bob@red.example keep"},
		{"carl@red.example", "mailbox carl@red.example route cloud"},
		{"team@red.example", "group team@red.example 2 members"},
		{"off@red.example", "denied"},
		{"gone@red.example", "not found"},
		{"nobody@red.example", "not found"},
		{"postmaster@red.example", "not found"},
		{"nobody@two.example", "mailbox ann@red.example catch-all"},
		{"ann+x@two.example", "mailbox ann@red.example catch-all"},
		{"ann@two.example", "mailbox ann@red.example"},
		{"who@three.example", "external who@three.example catch-all route cloud"},
		{"ann@else.example", "elsewhere"},
		{"ann@[192.0.2.1]", "elsewhere"},
	} {
		if got := f.say(c.in); got != c.want {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
	}
	d, err := f.Destination(addr("bob@red.example"))
	if err != nil || d.Language != "de-AT" || d.MaxMessage != 1000 {
		t.Errorf("%+v %v", d, err)
	}
	team, _ := f.Destination(addr("team@red.example"))
	if m, ok := f.Expand("red", team.Members[1]); !ok || m.Address.String() != "bob@red.example" || !m.Keep {
		t.Errorf("member: %+v %v", m, ok)
	}
	if _, ok := f.Expand("blue", team.Members[1]); ok {
		t.Error("found under another organization")
	}
	f.must(f.CreateAdministrator(t.Context(), "ann@red.example", "", []command.Role{command.OrganizationAdmin}, ""))
	if got := f.say("Postmaster@three.example"); got != "group Postmaster@three.example 1 members" {
		t.Error(got)
	}
	out, err := f.call(t.Context(), "mailbox set", `{"address":"bob@red.example","forward":[""]}`)
	if err != nil || strings.Contains(out, `"forward":`) || f.say("bob@red.example") != "mailbox bob@red.example keep" {
		t.Errorf("%s %v", out, err)
	}
	f.must(f.call(t.Context(), "domain set", `{"domain":"two.example","catch_all":""}`))
	if got := f.say("nobody@two.example"); got != "not found" {
		t.Error(got)
	}
	f.must(f.call(t.Context(), "domain set", `{"domain":"two.example","catch_all":"all@else.example"}`))
	if got := f.say("nobody@two.example"); got != "external all@else.example catch-all" {
		t.Error(got)
	}
	f.must(f.call(t.Context(), "domain set", `{"domain":"two.example","catch_all":"nobody@blue.example"}`))
	if got := f.say("nobody@two.example"); got != "external nobody@blue.example catch-all" {
		t.Errorf("a stranger's address was looked at: %s", got)
	}
}

func TestForwardLoopsRefused(t *testing.T) {
	f := newFixture(t, cheap())
	for _, n := range []string{"a", "b", "c", "d"} {
		f.mailbox(n+"@red.example", n+".alias@red.example")
	}
	f.group("g@red.example", "d@red.example")
	set := func(a, to string) error {
		_, err := f.call(t.Context(), "mailbox set", `{"address":"`+a+`@red.example","forward":["`+to+`"]}`)
		return err
	}
	f.must(nil, set("a", "b.alias@red.example"))
	f.must(nil, set("b", "c+x@red.example"))
	f.must(nil, set("c", "g@red.example"))
	for _, c := range [][2]string{{"a", "a@red.example"}, {"a", "a.alias+x@red.example"}, {"c", "a@red.example"}, {"d", "g@red.example"}, {"d", "a@red.example"}} {
		wantKind(t, c[0]+" to "+c[1], set(c[0], c[1]), kind.Invalid)
	}
	wantKind(t, "unknown", set("d", "nobody@red.example"), kind.NotFound)
	wantKind(t, "literal", set("d", "x@[192.0.2.1]"), kind.Invalid)
	_, err := f.AddMember(t.Context(), addr("g@red.example"), addr("b@red.example"))
	wantKind(t, "a member that forwards to the group", err, kind.Invalid)
	for _, in := range []string{`{"domain":"red.example","catch_all":"nobody@red.example"}`, `{"domain":"red.example","catch_all":"x@[192.0.2.1]"}`,
		`{"domain":"red.example","route":"a/b"}`} {
		if _, err := f.call(t.Context(), "domain set", in); err == nil {
			t.Errorf("%s worked", in)
		}
	}
	for _, in := range []string{`{"address":"d@red.example","language":"no such thing"}`, `{"address":"d@red.example","max_message":-1}`,
		`{"address":"d@red.example","route":"a b"}`} {
		_, err := f.call(t.Context(), "mailbox set", in)
		wantKind(t, in, err, kind.Invalid)
	}
}

func TestSenderRule(t *testing.T) {
	f := newFixture(t, cheap())
	ann, bob := f.mailbox("ann@red.example"), f.mailbox("bob@red.example")
	f.group("all@red.example", "ann@red.example")
	inside := Sender{Organization: "red", Account: bob.ID, Domain: "red.example"}
	owner := Sender{Organization: "red", Account: ann.ID}
	spoof := Sender{Domain: "red.example"}
	stranger := Sender{Organization: "blue", Account: bob.ID, Domain: "blue.example"}
	partner := Sender{Domain: "partner.example"}
	for _, c := range []struct {
		set  string
		want string // of inside, owner, spoof, stranger, partner, null sender
	}{
		{`"name":"All"`, "yes yes yes yes yes yes"},
		{`"senders_inside_only":true`, "yes yes no no no no"},
		{`"senders_inside_only":false,"allow_sender":["bob@red.example"],"owner":["ann@red.example"]`, "yes yes no no no no"},
		{`"allow_sender":[""],"allow_domain":["Partner.example"]`, "no yes no no yes no"},
		{`"allow_domain":[""]`, "yes yes yes yes yes yes"},
	} {
		out, err := f.call(t.Context(), "group set", `{"address":"all@red.example",`+c.set+`}`)
		f.must(out, err)
		d, err := f.Destination(addr("all@red.example"))
		f.must(d, err)
		var got []string
		for _, s := range []Sender{inside, owner, spoof, stranger, partner, {}} {
			got = append(got, map[bool]string{true: "yes", false: "no"}[d.Allows(s)])
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %s, want %s", c.set, g, c.want)
		}
	}
	out, err := f.call(t.Context(), "group show", `{"address":"all@red.example"}`)
	if err != nil || !strings.Contains(out, `"owners":["ann@red.example"]`) {
		t.Errorf("%s %v", out, err)
	}
}

func TestSystemMailbox(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	type answer struct {
		ref org.MailboxRef
		err error
	}
	got := make(chan answer, 4)
	for range 4 {
		go func() {
			ref, err := f.SystemMailbox(t.Context(), "red", "quarantine")
			got <- answer{ref, err}
		}()
	}
	first := <-got
	for range 3 {
		if a := <-got; a.err != nil || a != first {
			t.Errorf("%v %v, want %v", a.ref, a.err, first.ref)
		}
	}
	if s, ok := f.store.get(first.ref.ID); !ok || s.Organization != "red" {
		t.Errorf("its database was told %+v", s)
	}
	if blue, err := f.SystemMailbox(t.Context(), "blue", "quarantine"); err != nil || blue.ID == first.ref.ID {
		t.Errorf("%v %v", blue, err)
	}
	if _, err := f.SystemMailbox(t.Context(), "green", "quarantine"); !kind.Is(err, kind.NotFound) {
		t.Errorf("unknown organization: %v", err)
	}
	if _, err := f.SystemMailbox(t.Context(), "red", "a/b"); !kind.Is(err, kind.Invalid) {
		t.Errorf("purpose: %v", err)
	}
	// Nobody sees it, nothing goes there by an address.
	if n := len(f.Mailboxes("red")); n != 1 {
		t.Errorf("%d mailboxes", n)
	}
	if _, ok := f.Expand("red", first.ref.ID); ok {
		t.Error("it receives")
	}
	if _, ok := f.ByAddress(mail.Address{}); ok {
		t.Error("it has an address")
	}
	// It goes with its organization.
	f.must(nil, f.RemoveDomain(t.Context(), "blue.example"))
	f.must(nil, f.RemoveOrganization(t.Context(), "blue"))
	if n := len(f.store.have); n != 2 { // ann's and the one of red
		t.Errorf("the databases have %d mailboxes", n)
	}
}

// TestSystemMailboxWaits: what its database has not heard of is no place yet.
func TestSystemMailboxWaits(t *testing.T) {
	f := newFixture(t, cheap())
	f.store.fail(kind.Errorf(kind.Busy, "away"))
	if _, err := f.SystemMailbox(t.Context(), "red", "quarantine"); !kind.Is(err, kind.Busy) {
		t.Error(err)
	}
	f.store.fail(nil)
	if _, err := f.SystemMailbox(t.Context(), "red", "quarantine"); err != nil {
		t.Error(err)
	}
}
