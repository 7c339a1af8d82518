package lab

import (
	"os/exec"
	"strings"
	"testing"
)

// TestRulesAreAccepted lets nft check the rules without loading them.
func TestRulesAreAccepted(t *testing.T) {
	s := DefaultSpec()
	s.Witness = true
	n := newNetwork(Layout(s, t.TempDir()), s.BasePort)
	n.cut["MBX2"] = true
	n.plans[2].Site = "Site2"
	n.away["Site2"] = true
	rules := n.rules()
	for _, want := range []string{
		"ct state new meta skgid 60702 ct mark set 2",
		"ct mark 2 ip daddr { 127.0.0.11, 127.0.0.13, 127.0.0.14 } tcp dport 20100-20599 drop",
		"ct mark { 1, 3, 4 } ip saddr 127.0.0.12 tcp sport 20100-20599 drop",
		"ct mark { 1, 2, 4 } ip daddr 127.0.0.13 tcp dport 20100-20599 drop",
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("no rule %q in\n%s", want, rules)
		}
	}
	if n.usable() != nil {
		t.Log("nft cannot be asked here; only the text was looked at")
		return
	}
	cmd := exec.Command("nft", "--check", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, rules)
	}
}

func TestLayout(t *testing.T) {
	s := DefaultSpec()
	s.Servers, s.Sites, s.Witness, s.Copies, s.Databases, s.Users = 4, 2, true, 3, 5, 7
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	plans := Layout(s, "/lab")
	if len(plans) != 5 || plans[1].Site != "Site2" || plans[2].Site != "Site1" || plans[4].Name != "WIT1" || plans[4].Site != "Site3" || plans[0].IP != "127.0.0.11" {
		t.Errorf("%+v", plans)
	}
	seen := map[string]string{}
	for _, p := range plans {
		for _, port := range []int{portSMTP, portIMAP, portHTTPS, portSubmissions, portCluster, portHTTP, portSubmission, portMetrics, portIMAPS} {
			if was := seen[p.Door(port)]; was != "" {
				t.Errorf("%s and %s share %s", was, p.Name, p.Door(port))
			}
			seen[p.Door(port)] = p.Name
		}
	}
	dbs := Databases(s)
	if len(dbs) != 5 || strings.Join(dbs[3].Servers, ",") != "MBX4,MBX1,MBX2" || dbs[4].Volume != "Vol2" {
		t.Errorf("%+v", dbs)
	}
	if u := Users(s); u[6] != (UserPlan{"user7@example.test", "DB02"}) {
		t.Errorf("%+v", u)
	}
}

func TestSpecRefusals(t *testing.T) {
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Servers = 17 }, "--servers 17"},
		{func(s *Spec) { s.Copies = 4 }, "--copies 4"},
		{func(s *Spec) { s.Sites = 4 }, "--sites 4"},
		{func(s *Spec) { s.Users = 0 }, "--users 0"},
		{func(s *Spec) { s.BasePort = 65200 }, "--base-port 65200"},
		{func(s *Spec) { s.Domain = "x" }, "--domain"},
		{func(s *Spec) { s.Password = `a"b` }, "--password"},
	} {
		s := DefaultSpec()
		c.change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
