package settings

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
)

func TestSet(t *testing.T) {
	var g Group
	var p Policy
	var c Connector
	var r Rule
	for _, step := range []struct {
		set        func(key, value string) error
		key, value string
		want       string // part of the error, empty for none
	}{
		{g.Set, "hold_time", "2d", ""},
		{g.Set, "hold-time", "1d12h", ""},
		{g.Set, "hold_time", "two days", "no duration"},
		{g.Set, "hold_time", "-5m", "no duration"},
		{g.Set, "hold_time", "1s", "too little, want at least 1m"},
		{g.Set, "hold_time", "99999d", "too much, want at most 720h"},
		{g.Set, "hold_time", "0s", "the default is 48h"},
		{g.Set, "holdtime", "2d", "did you mean hold_time?"},
		{g.Set, "nothing", "2d", "postern transport show"},
		{g.Set, "shadow_enabled", "off", ""},
		{g.Set, "shadow_enabled", "perhaps", "not true or false"},
		{g.Set, "reject_on_shadow_failure", "sometimes", "not one of auto, always, never"},
		{g.Set, "retries_local_site", "x", "no whole number"},
		{g.Set, "retries_local_site", "-1", "too little"},
		{g.Set, "retries_local_site", "17", "at most 16"},
		{g.Set, "dnsbl", "zen.example, other.example=5", ""},
		{g.Set, "dnsbl", strings.Repeat("a ", 101), "at most 100"},
		{p.Set, "attachments", "exe=reject,application/*=quarantine", ""},
		{p.Set, "attachments", "exe", "want extension=action"},
		{p.Set, "attachments", "exe=eat", "not one of reject, quarantine"},
		{p.Set, "organization", "blue", "no setting"},
		{c.Set, "networks", "192.0.2.0/24 2001:db8::1", ""},
		{c.Set, "networks", "all", "no '/'"},
		{c.Set, "password", "x", "no setting"},
		{c.Set, "port", "65536", "at most 65535"},
		{r.Set, "priority", "-5", ""},
		{r.Set, "larger_than", "1000000", ""},
	} {
		err := step.set(step.key, step.value)
		if step.want == "" && err != nil || step.want != "" && (!kind.Is(err, kind.Invalid) || !strings.Contains(err.Error(), step.want)) {
			t.Errorf("set %s %.40s: %v, want %q", step.key, step.value, err, step.want)
		}
	}
	if g.HoldTime.Std() != 36*time.Hour || *g.ShadowEnabled || len(g.DNSBL) != 2 {
		t.Errorf("%+v", g)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")}; !reflect.DeepEqual(c.Networks, want) {
		t.Errorf("%v", c.Networks)
	}
	for _, back := range []string{"default", ""} {
		if err := g.Set("hold_time", back); err != nil || g.HoldTime != 0 {
			t.Errorf("%v, %v", g.HoldTime, err)
		}
	}
	b, _ := json.Marshal(p)
	var again Policy
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(p, again) {
		t.Errorf("%s: %v", b, err)
	}
}

func TestValidate(t *testing.T) {
	out := func(f func(c *Connector)) Connector { c := connector("red", "c"); f(&c); return c }
	in := func(f func(c *Connector)) Connector {
		return out(func(c *Connector) {
			c.Direction, c.Hosts, c.Networks = DirectionIn, nil, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			f(c)
		})
	}
	rule := func(f func(r *Rule)) Rule {
		r := Rule{Name: "r", Organization: "red", Action: "reject", Sender: "@bad.example"}
		f(&r)
		return r
	}
	for name, c := range map[string]struct {
		row  interface{ Validate() error }
		want string
	}{
		"defaults":               {Group{}, ""},
		"shadow slower than all": {Group{ShadowTimeout: conf.Duration(50 * time.Second)}, "longer than accept_timeout"},
		"day less than hour":     {Group{OutboundAccountPerDay: 10}, "less than outbound_account_per_hour"},
		"weights":                {Group{DNSBL: []string{"a.example=3"}}, ""},
		"weightless":             {Group{DNSBL: []string{"a.example=0"}}, "weight"},
		"no zone":                {Group{DNSBL: []string{"http://x"}}, "domain name"},
		"smart host":             {Group{SmartHost: "[2001:db8::1]:587"}, ""},
		"smart port":             {Group{SmartHost: "a.example:99999"}, "port"},
		"trusted":                {Group{ARCTrusted: []string{"A.example"}}, "small letters"},
		"policy":                 {Policy{Organization: "red"}, ""},
		"nobody's policy":        {Policy{}, "organization"},
		"journal":                {Policy{Organization: "red", Journal: "x"}, "not an address"},
		"long disclaimer":        {Policy{Organization: "red", Disclaimer: strings.Repeat("a", maxDisclaimer+1)}, "octets"},
		"days":                   {Policy{Organization: "red", QuarantineDays: 1000}, "at most 365"},
		"out":                    {out(func(*Connector) {}), ""},
		"no kind":                {out(func(c *Connector) { c.Kind = "" }), "kind"},
		"out to nowhere":         {out(func(c *Connector) { c.Hosts = nil }), "--hosts"},
		"bad host":               {out(func(c *Connector) { c.Hosts = []string{"a b"} }), "name or address"},
		"exchange in clear":      {out(func(c *Connector) { c.Kind, c.TLS = KindExchangeOnline, "opportunistic" }), "TLS only"},
		"password in clear":      {out(func(c *Connector) { c.User, c.TLS = "u", "opportunistic" }), "tls required"},
		"no pem":                 {out(func(c *Connector) { c.CA = "x" }), "PEM"},
		"wildcard":               {out(func(c *Connector) { c.VerifyName = "*.mail.protection.outlook.com" }), ""},
		"path in a name":         {out(func(c *Connector) { c.Name = "../x" }), "name"},
		"in":                     {in(func(*Connector) {}), ""},
		"in from anybody":        {in(func(c *Connector) { c.Networks = nil }), "nothing proves"},
		"in from everywhere":     {in(func(c *Connector) { c.Networks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }), "too wide"},
		"host bits":              {in(func(c *Connector) { c.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")} }), "no network"},
		"rule":                   {rule(func(*Rule) {}), ""},
		"all mail":               {rule(func(r *Rule) { r.Sender = "" }), "all mail"},
		"two lines":              {rule(func(r *Rule) { r.Text = "a\r\nb" }), "one line"},
		"half a condition":       {rule(func(r *Rule) { r.Contains = "x" }), "needs a header"},
		"no address":             {rule(func(r *Rule) { r.Sender = "nobody" }), "not an address"},
		"no target":              {rule(func(r *Rule) { r.Action = "redirect" }), "target"},
		"header":                 {rule(func(r *Rule) { r.Action, r.AddName, r.AddValue = "header", "X-Seen", "yes" }), ""},
		"forged header":          {rule(func(r *Rule) { r.Action, r.AddName = "header", "Authentication-Results" }), "not for rules"},
		"injected header":        {rule(func(r *Rule) { r.Action, r.AddName, r.AddValue = "header", "X-A", "b\nBcc: c" }), "one line"},
		"empty disclaimer":       {rule(func(r *Rule) { r.Action = "disclaimer" }), "needs a text"},
		"key":                    {DKIMKey{Domain: "red.example", Selector: "s1", Algorithm: "rsa-2048", State: DKIMSigning, Sealed: []byte{1}}, ""},
		"key without a key":      {DKIMKey{Domain: "red.example", Selector: "s1", Algorithm: "rsa-2048", State: DKIMSigning}, "not complete"},
	} {
		err := c.row.Validate()
		if c.want == "" && err != nil || c.want != "" && (!kind.Is(err, kind.Invalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		g           Group
		lag, window time.Duration
		want        string
	}{
		{Group{}, 0, 120 * time.Hour, ""},
		{Group{}, 0, 100 * time.Hour, "duplicate_window"},
		{Group{}, 72 * time.Hour, 120 * time.Hour, "replay lag"},
		{Group{HoldTime: conf.Duration(72 * time.Hour)}, 72 * time.Hour, 240 * time.Hour, ""},
	} {
		err := c.g.Covers(c.lag, c.window)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Every setting says what it means, and a default of its row is one that Set takes.
func TestListIsComplete(t *testing.T) {
	lists := map[string][]Setting{"group": List(Group{}), "policy": List(Policy{}), "connector": List(Connector{}), "rule": List(Rule{})}
	for what, list := range lists {
		for _, s := range list {
			if s.Doc == "" || s.Unit == "" || s.Changed {
				t.Errorf("%s: %+v", what, s)
			}
		}
	}
	var g Group
	for _, s := range lists["group"] {
		if err := g.Set(s.Key, s.Value); err != nil {
			t.Error(err)
		}
	}
	if err := g.Validate(); err != nil {
		t.Error(err)
	}
	if err := g.Set("takeover_after", "5s"); err != nil {
		t.Fatal(err)
	}
	for _, s := range List(g) {
		if s.Changed != (s.Key == "takeover_after") {
			t.Errorf("%+v", s)
		}
	}
	page := Markdown()
	for _, part := range []string{"| `hold_time` | 48h | duration (1m to 720h) |", "| `dnsbl` | none | list |", "| `max_message` | 0 (as the server) | bytes |"} {
		if !strings.Contains(page, part) {
			t.Errorf("the page has no %q:\n%s", part, page)
		}
	}
}

func FuzzSet(f *testing.F) {
	f.Add("hold_time", "2d")
	f.Add("dnsbl", "a.example=3, b.example")
	f.Add("smart_host", "[::1]:25")
	f.Add("attachments", "exe=reject")
	f.Add("networks", "192.0.2.0/24")
	f.Fuzz(func(t *testing.T, key, value string) {
		var g Group
		if g.Set(key, value) == nil && g.Validate() == nil {
			b, err := json.Marshal(g)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decodeGroup(b); err != nil {
				t.Fatalf("%s %q was taken and cannot be read back: %v", key, value, err)
			}
		}
		var p Policy
		if p.Set(key, value) == nil {
			b, _ := json.Marshal(p)
			var again Policy
			if err := json.Unmarshal(b, &again); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
		}
		var c Connector
		_ = c.Set(key, value)
	})
}
