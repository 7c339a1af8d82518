package manage

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/keys"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func TestTheTableNeedsNoRooms(t *testing.T) {
	if err := command.Check(Commands(Deps{})); err != nil {
		t.Error(err)
	}
}

func TestTransport(t *testing.T) {
	w := newWorld(t)
	got := w.do("transport set", "setting=hold_time", "value=2d12h").(settings.Setting)
	if got.Value != "60h" || got.Default != "48h" || !got.Changed {
		t.Errorf("%+v", got)
	}
	if all := w.do("transport show", "changed=true").([]settings.Setting); len(all) != 1 || all[0].Key != "hold_time" {
		t.Errorf("%+v", all)
	}
	if all := w.do("transport show").([]settings.Setting); len(all) < 30 {
		t.Errorf("%d settings", len(all))
	}
	server := w.as(command.ServerAdmin, "")
	w.refuse(server, kind.Invalid, "duplicate_window", "transport set", "setting=hold_time", "value=4d")
	w.refuse(server, kind.Invalid, "did you mean hold_time?", "transport set", "setting=hold_tim", "value=4d")
	w.refuse(server, kind.Invalid, "longer than accept_timeout", "transport set", "setting=shadow_timeout", "value=50s")
	w.refuse(w.as(command.OrganizationAdmin, "red"), kind.Denied, "", "transport set", "setting=hold_time", "value=1d")
	w.refuse(w.as(command.Auditor, ""), kind.Denied, "", "transport set", "setting=hold_time", "value=1d")
	if w.deps.Book.Group().HoldTime.Std().Hours() != 60 {
		t.Error("a refused change was kept")
	}
	w.do("transport set", "setting=hold_time", "value=default")
	if all := w.do("transport show", "changed=true").([]settings.Setting); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	// A copy lags by two days: less than that is refused, more is not, and where
	// the lag was longer before, other settings can be changed all the same.
	w.lag = 48 * time.Hour
	w.refuse(server, kind.Invalid, "hold_time 47h is shorter than the longest replay lag 48h", "transport set", "setting=hold_time", "value=47h")
	w.do("transport set", "setting=hold_time", "value=49h")
	w.refuse(server, kind.Invalid, "replay lag", "transport set", "setting=hold_time", "value=1h")
	w.lag = 72 * time.Hour
	w.do("transport set", "setting=hold_time", "value=50h")
	w.do("transport set", "setting=dnsbl", "value=zen.example")
	w.state.Fail(kind.Errorf(kind.Busy, "no quorum"))
	w.refuse(server, kind.Busy, "no quorum", "transport set", "setting=hold_time", "value=51h")
}

func TestPolicy(t *testing.T) {
	w := newWorld(t)
	red := w.as(command.OrganizationAdmin, "red")
	if _, err := w.call(red, "policy set", "organization=red", "setting=spam_action", "value=reject"); err != nil {
		t.Fatal(err)
	}
	if p := w.deps.Book.Policy("red"); p.SpamAction != "reject" || w.deps.Book.Policy("blue").SpamAction != "quarantine" {
		t.Errorf("%+v", p)
	}
	w.refuse(red, kind.NotFound, "no such organization", "policy set", "organization=blue", "setting=spam_action", "value=reject")
	w.refuse(red, kind.NotFound, "no such organization", "policy show", "organization=blue")
	w.refuse(red, kind.Denied, "administrators of the servers", "policy set", "organization=red", "setting=messages-per-minute", "value=1000000")
	w.refuse(w.as(command.ServerAdmin, ""), kind.NotFound, "no such organization", "policy set", "organization=green", "setting=spam_action", "value=reject")
	w.refuse(red, kind.Invalid, "not an address", "policy set", "organization=red", "setting=journal", "value=x")
	w.do("policy set", "organization=red", "setting=messages_per_minute", "value=100")
	if all := w.do("policy show", "organization=red", "changed=true").([]settings.Setting); len(all) != 2 {
		t.Errorf("%+v", all)
	}
}

func TestConnectors(t *testing.T) {
	w := newWorld(t)
	server, red := w.as(command.ServerAdmin, ""), w.as(command.OrganizationAdmin, "red")
	w.do("connector create", "organization=red", "name=exo", "kind=exchange-online", "direction=both", "hosts=red-example.mail.protection.outlook.com",
		"networks=192.0.2.0/24", "networks=2001:db8::/32", "user=u", "password=secret word")
	c, ok := w.deps.Book.Connector("red", "exo")
	if !ok || !c.Enabled || !c.IPv4Only || c.VerifyName != "*.mail.protection.outlook.com" || len(c.Networks) != 2 || c.TLS != "required" {
		t.Fatalf("%+v", c)
	}
	if plain, err := w.state.OpenSecret("connector red/exo", c.Password); err != nil || string(plain) != "secret word" {
		t.Errorf("%q, %v", plain, err)
	}
	w.refuse(server, kind.Exists, "exists", "connector create", "organization=red", "name=exo", "kind=smtp", "direction=out", "hosts=a.example")
	w.refuse(server, kind.Invalid, "nothing proves", "connector create", "organization=red", "name=in", "kind=smtp", "direction=in")
	w.refuse(server, kind.Invalid, "too wide", "connector create", "organization=red", "name=in", "kind=smtp", "direction=in", "networks=0.0.0.0/0")
	w.refuse(server, kind.NotFound, "organization", "connector create", "organization=green", "name=in", "kind=smtp", "direction=out", "hosts=a.example")
	w.refuse(red, kind.Denied, "", "connector create", "organization=red", "name=in", "kind=smtp", "direction=out", "hosts=a.example")

	shown := text(w.do("connector list")) + text(w.do("connector show", "organization=red", "name=exo"))
	if strings.Contains(shown, "secret") || !strings.Contains(shown, `"password":true`) {
		t.Error(shown)
	}
	if out, err := w.call(red, "connector list"); err != nil || len(out.([]ConnectorRow)) != 1 {
		t.Error(out, err)
	}
	w.refuse(w.as(command.OrganizationAdmin, "blue"), kind.NotFound, "no such connector", "connector show", "organization=red", "name=exo")

	w.do("connector set", "organization=red", "name=exo", "setting=enabled", "value=false")
	w.do("connector set", "organization=red", "name=exo", "password=another")
	c, _ = w.deps.Book.Connector("red", "exo")
	if plain, err := w.state.OpenSecret("connector red/exo", c.Password); c.Enabled || err != nil || string(plain) != "another" {
		t.Errorf("%q, %v", plain, err)
	}
	w.refuse(server, kind.Invalid, "give a setting", "connector set", "organization=red", "name=exo")
	w.refuse(server, kind.Invalid, "TLS only", "connector set", "organization=red", "name=exo", "setting=tls", "value=opportunistic")
	w.refuse(server, kind.NotFound, "no such connector", "connector set", "organization=red", "name=nobody", "setting=enabled", "value=true")
	w.refuse(server, kind.NotFound, "no such connector", "connector set", "organization=red", "name=../x", "setting=enabled", "value=true")

	if got := w.do("connector test", "organization=red", "name=exo").([]Trial); len(got) != 1 || !got[0].OK {
		t.Errorf("%+v", got)
	}
	if plan := w.do("connector remove", "organization=red", "name=exo", "dry_run=true").(command.Plan); plan.Steps[0].Done || len(w.deps.Book.AllConnectors()) != 1 {
		t.Errorf("%+v", plan)
	}
	if plan := w.do("connector remove", "organization=red", "name=exo").(command.Plan); !plan.Steps[0].Done || len(w.deps.Book.AllConnectors()) != 0 {
		t.Errorf("%+v", plan)
	}
}

func TestRules(t *testing.T) {
	w := newWorld(t)
	red := w.as(command.OrganizationAdmin, "red")
	if _, err := w.call(red, "rule create", "organization=red", "name=exe", "action=reject", "attachment=exe", "text=no programs", "priority=5"); err != nil {
		t.Fatal(err)
	}
	w.do("rule create", "organization=red", "name=all", "action=bcc", "target=boss@red.example", "outside=to", "stop=true")
	w.do("rule create", "organization=blue", "name=mark", "action=header", "header_name=X-Blue", "header_value=yes")
	out, err := w.call(red, "rule list")
	if err != nil {
		t.Fatal(err)
	}
	rows := out.([]RuleRow)
	if len(rows) != 2 || rows[0].If != "outside to" || rows[0].Then != "bcc boss@red.example, stop" || rows[1].If != "attachment exe" || rows[1].Then != "reject" {
		t.Errorf("%+v", rows)
	}
	if got := w.do("rule list", "organization=blue").([]RuleRow); len(got) != 1 || got[0].If != "always" || got[0].Then != "header X-Blue: yes" {
		t.Errorf("%+v", got)
	}
	w.refuse(red, kind.NotFound, "no such rule", "rule set", "organization=blue", "name=mark", "setting=disabled", "value=true")
	w.refuse(red, kind.NotFound, "no such rule", "rule remove", "organization=blue", "name=mark")
	w.refuse(red, kind.Invalid, "would reject all mail", "rule create", "organization=red", "name=r", "action=reject")
	w.refuse(red, kind.Exists, "exists", "rule create", "organization=red", "name=exe", "action=reject", "attachment=exe")
	w.refuse(w.as(command.HelpDesk, "red"), kind.Denied, "", "rule remove", "organization=red", "name=exe")
	w.do("rule set", "organization=red", "name=exe", "setting=disabled", "value=true")
	w.do("rule set", "organization=red", "name=exe", "setting=priority", "value=-1")
	if got := w.deps.Book.Rules("red"); !got[0].Disabled || got[0].Name != "exe" {
		t.Errorf("%+v", got)
	}
	w.refuse(red, kind.Invalid, "all mail", "rule set", "organization=red", "name=exe", "setting=attachment", "value=default")
	w.do("rule remove", "organization=red", "name=exe")
	if got := w.deps.Book.Rules("red"); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestDKIM(t *testing.T) {
	w := newWorld(t)
	red := w.as(command.OrganizationAdmin, "red")
	out, err := w.call(red, "dkim create", "domain=RED.example", "algorithm=ed25519")
	if err != nil {
		t.Fatal(err)
	}
	made := out.([]KeyRow)
	if len(made) != 1 || made[0].Record != "p20260301e._domainkey.red.example" || !strings.HasPrefix(made[0].Value, "v=DKIM1;") || made[0].State != settings.DKIMPublishing {
		t.Fatalf("%+v", made)
	}
	w.do("dkim create", "domain=blue.example", "algorithm=ed25519", "selector=s1")
	if out, err := w.call(red, "dkim list"); err != nil || len(out.([]KeyRow)) != 1 {
		t.Error(out, err)
	}
	if got := w.do("dkim list").([]KeyRow); len(got) != 2 || strings.Contains(text(got), "sealed") {
		t.Errorf("%+v", got)
	}
	w.refuse(red, kind.NotFound, "no such domain", "dkim create", "domain=blue.example")
	w.refuse(red, kind.NotFound, "no such domain", "dkim list", "domain=blue.example")
	w.refuse(red, kind.NotFound, "no such domain", "dkim remove", "domain=blue.example", "selector=s1")
	w.refuse(red, kind.Conflict, "waits for its DNS record", "dkim rotate", "domain=red.example")
	w.refuse(red, kind.NotFound, "no such dkim key", "dkim remove", "domain=red.example", "selector=x")
	w.do("dkim remove", "domain=red.example", "selector=p20260301e", "dry_run=true")
	w.do("dkim remove", "domain=red.example", "selector=p20260301e")
	if got := w.do("dkim list", "domain=red.example").([]KeyRow); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestDomainDNS(t *testing.T) {
	w := newWorld(t)
	w.do("dkim create", "domain=red.example", "algorithm=ed25519")
	w.do("connector create", "organization=red", "name=g", "kind=google", "direction=out", "hosts=smtp.google.example")
	all := w.do("domain dns", "domain=red.example", "offline=true").([]keys.Row)
	shown := text(all)
	for _, part := range []string{"10 mx.postern.example.", "v=spf1 mx include:_spf.google.com -all", "p20260301e._domainkey.red.example", "_mta-sts.red.example", `"not checked"`} {
		if !strings.Contains(shown, part) {
			t.Errorf("no %s in %s", part, shown)
		}
	}
	w.refuse(w.as(command.HelpDesk, "blue"), kind.NotFound, "no such domain", "domain dns", "domain=red.example")
}

func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	red, blue := w.as(command.OrganizationAdmin, "red"), w.as(command.OrganizationAdmin, "blue")
	put := func(reason string) string {
		m := queue.Message{ID: mail.NewTraceID(noon), Received: noon, Identity: [32]byte{1}, Envelope: mail.Envelope{From: "s@spam.example"}}
		rows := []queue.RecipientRow{{Address: "a@red.example", Organization: "red"}, {Address: "b@red.example", Organization: "red"}}
		for _, it := range quarantine.Split(m, rows, reason, 0) {
			if err := w.deps.Quarantine.Put(t.Context(), it, []byte("Subject: win\r\n\r\nbuy\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		return "id=" + m.ID.String()
	}
	id, virus := put("spam"), put(quarantine.Malware+": Eicar")
	out, err := w.call(red, "quarantine list", "reason=SPAM", "last=1h")
	if err != nil || len(out.([]QuarantineRow)) != 1 {
		t.Fatal(out, err)
	}
	if row := out.([]QuarantineRow)[0]; row.Sender != "<s@spam.example>" || row.Subject != "win" || len(row.Recipients) != 2 {
		t.Errorf("%+v", row)
	}
	if out, err := w.call(blue, "quarantine list"); err != nil || len(out.([]QuarantineRow)) != 0 {
		t.Error(out, err)
	}
	for _, verb := range []string{"show", "release", "delete"} {
		w.refuse(blue, kind.NotFound, "no such message", "quarantine "+verb, id)
		w.refuse(blue, kind.NotFound, "no such message", "quarantine "+verb, id, "organization=red")
	}
	if row := w.do("quarantine show", id).(QuarantineShown); len(row.Header) != 1 || row.Header[0].Line != "Subject: win" {
		t.Errorf("%+v", row)
	}
	w.refuse(w.as(command.HelpDesk, "red"), kind.Denied, "", "quarantine release", id)
	w.refuse(red, kind.Denied, "malware", "quarantine release", virus)
	w.refuse(w.as(command.OrganizationAdmin, ""), kind.Denied, "malware", "quarantine release", virus)
	if _, err := w.call(red, "quarantine release", id, "recipient=b@red.example"); err != nil {
		t.Error(err)
	}
	w.do("quarantine release", id)
	w.do("quarantine delete", virus, "dry_run=true")
	w.do("quarantine delete", virus)
	if got := w.do("quarantine list").([]QuarantineRow); len(got) != 0 || len(w.sent) != 2 {
		t.Errorf("%+v, %d sent", got, len(w.sent))
	}
}

func TestGuard(t *testing.T) {
	w := newWorld(t)
	server := w.as(command.ServerAdmin, "")
	w.do("guard allow", "value=192.0.2.7", "why=branch")
	w.do("guard block", "value=@Spammer.example", "for=24h")
	rows := w.do("guard list").([]GuardRow)
	if len(rows) != 2 || rows[0].Value != "192.0.2.7/32" || rows[0].List != "allow" || rows[0].By != "tester" || !rows[0].Expires.IsZero() ||
		rows[1].Value != "spammer.example" || !rows[1].Expires.Equal(noon.Add(24*60*60*1e9)) {
		t.Fatalf("%+v", rows)
	}
	w.refuse(server, kind.Conflict, "other list", "guard block", "value=192.0.2.7/32")
	w.refuse(server, kind.Invalid, "want a network", "guard block", "value=localhost")
	w.refuse(server, kind.NotFound, "no such entry", "guard remove", "value=192.0.2.8")
	w.refuse(w.as(command.OrganizationAdmin, "red"), kind.Denied, "", "guard list")
	w.do("guard allow", "value=192.0.2.7", "why=again")
	w.do("guard remove", "value=192.0.2.7", "dry_run=true")
	w.do("guard remove", "value=192.0.2.7")
	if rows := w.do("guard list", "list=allow").([]GuardRow); len(rows) != 0 {
		t.Errorf("%+v", rows)
	}
}
