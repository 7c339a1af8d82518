package notify

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// do runs a command with parameters as an administrator gives them.
func do(t *testing.T, n *Notifier, name string, params map[string]any) (any, error) {
	t.Helper()
	for _, c := range Commands(n) {
		if c.Name() != name {
			continue
		}
		p, err := command.ParamsOf(c.In)
		if err != nil {
			t.Fatal(err)
		}
		if params == nil {
			params = map[string]any{}
		}
		body, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		in, err := p.FromJSON(body)
		if err != nil {
			return nil, err
		}
		return c.Run(command.WithCaller(context.WithoutCancel(t.Context()), command.Caller{Name: "ann"}), in)
	}
	t.Fatalf("there is no command %s", name)
	return nil, nil
}

type params = map[string]any

// TestCommandTable checks the table as doors do.
func TestCommandTable(t *testing.T) {
	if err := command.Check(Commands(nil)); err != nil {
		t.Fatal(err)
	}
}

// TestCommands goes through the life of a channel, a rule and an alert.
func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "MBX1")
		w.start("MBX1")
		defer w.stop()
		n := w.servers["MBX1"].n
		must := func(name string, p params) any {
			t.Helper()
			out, err := do(t, n, name, p)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return out
		}
		refuse := func(k kind.Kind, name string, p params) {
			t.Helper()
			if _, err := do(t, n, name, p); !kind.Is(err, k) {
				t.Errorf("%s %v: %v, want %s", name, p, err, k)
			}
		}
		hook := params{"name": "chat", "kind": "webhook", "address": "https://chat.example/x", "secret": "geheim"}
		must("notify channel add", hook)
		refuse(kind.Exists, "notify channel add", hook)
		refuse(kind.Invalid, "notify channel add", params{"name": "ops", "kind": "email", "address": "127.0.0.1:25", "from": "a@example.com", "to": []string{"b@example.org"}})
		refuse(kind.Invalid, "notify rule add", params{"name": "all", "channels": []string{"nobody"}})
		for _, limit := range []params{{"codes": []int{99999}}, {"codes": []int{evAcknowledged.Code}}, {"servers": []string{"MBX9"}}, {"sets": []string{"Nope"}}} {
			limit["name"], limit["channels"] = "narrow", []string{"chat"}
			refuse(kind.Invalid, "notify rule add", limit)
		}
		must("notify rule add", params{"name": "narrow", "channels": []string{"chat"}, "codes": []int{codeFailing}, "servers": []string{"MBX1"}, "sets": []string{"Store"}})
		refuse(kind.Invalid, "notify rule set", params{"name": "narrow", "sets": []string{"store"}})
		must("notify rule remove", params{"name": "narrow"})
		must("notify rule add", params{"name": "all", "channels": []string{"chat"}, "escalate": []string{"15m:chat"}})
		must("notify rule set", params{"name": "all", "repeat": "1h", "quiet_hours": "22:00-07:00", "zone": "Europe/Berlin"})
		refuse(kind.Invalid, "notify channel remove", params{"name": "chat"})
		refuse(kind.NotFound, "notify channel test", params{"name": "ops"})
		must("notify channel test", params{"name": "chat"})
		for key, row := range w.servers["MBX1"].Prefix(channelPrefix) {
			if strings.Contains(string(row.Value), "geheim") {
				t.Errorf("the secret stands in %s", key)
			}
		}
		if r := must("notify rule list", nil).([]RuleInfo); len(r) != 1 || r[0].Repeat != time.Hour || r[0].Escalate[0].After != 15*time.Minute || r[0].Escalate[0].String() != "after 15m: chat" {
			t.Errorf("rules %+v", r)
		}
		n.Raise(Report{Code: 1801, Level: LevelError, Object: "Store", Sentence: "Store is red", Lasting: true, Critical: true})
		time.Sleep(10 * time.Second)
		list := must("alert list", nil).([]AlertInfo)
		if len(list) != 1 || list[0].Sentence != "Store is red" {
			t.Fatalf("alerts %+v", list)
		}
		if d := must("alert show", params{"id": list[0].ID}).(AlertDetails); len(d.Told) != 1 || d.Told[0].Channel != "chat" || d.Told[0].Times != 1 {
			t.Errorf("told %+v", d.Told)
		}
		refuse(kind.NotFound, "alert ack", params{"id": "0000000000"})
		if a := must("alert ack", params{"id": "all", "comment": "on it"}).([]AlertInfo); len(a) != 1 || a[0].By != "ann" || a[0].State != Acknowledged {
			t.Errorf("acknowledged %+v", a)
		}
		n.Clear(1801, "Store", "green")
		time.Sleep(10 * time.Second)
		refuse(kind.Invalid, "alert ack", params{"id": list[0].ID})
		if c := must("notify channel list", nil).([]ChannelInfo); len(c) != 1 || c[0].Owner != "MBX1" || c[0].LastHour != 2 || c[0].LastOK == nil || !c[0].Secret {
			t.Errorf("channels %+v", c)
		}
		must("notify rule remove", params{"name": "all"})
		must("notify channel remove", params{"name": "chat"})
		if slices.Collect(keysOf(w.servers["MBX1"], statePrefix)) != nil {
			t.Error("the state of the channel is left")
		}
	})
}

func keysOf(s *server, p string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range s.Prefix(p) {
			if !yield(k) {
				return
			}
		}
	}
}

// FuzzShown: what another server shows without quorum is bounded, whatever it is.
func FuzzShown(f *testing.F) {
	f.Add([]byte(`[{"code":1801,"object":"Store","sentence":"Store is red","state":"open"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all := shown(b)
		if len(all) > maxShown {
			t.Fatalf("%d alerts", len(all))
		}
		for _, a := range all {
			if a.ID != idOf(a.Key()) || len(a.Sentence) > maxSentence || len(a.Object) > maxObject || strings.ContainsAny(a.Sentence+a.Object, "\r\n\x00") {
				t.Errorf("%+v", a)
			}
		}
		m := Message{Channel: "ops", Reason: Summary, Alerts: all, Server: "MBX1"}
		if len(m.Short()) > 160 || len(m.Subject()) > 160 {
			t.Errorf("%q", m.Subject())
		}
		if _, err := m.mail(Channel{From: "a@example.com", To: []string{"b@example.org"}}); err != nil {
			t.Error(err)
		}
	})
}

// FuzzEscalation: what is read is written the same.
func FuzzEscalation(f *testing.F) {
	f.Add("15m:boss+duty")
	f.Fuzz(func(t *testing.T, s string) {
		var e, again Escalation
		if e.UnmarshalText([]byte(s)) != nil {
			return
		}
		b, err := e.MarshalText()
		if err != nil || again.UnmarshalText(b) != nil || again.After != e.After || !slices.Equal(again.Channels, e.Channels) {
			t.Errorf("%q is written as %q", s, b)
		}
	})
}
