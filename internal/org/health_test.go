package org

import (
	"slices"
	"testing"
	"time"
)

// TestCombine: the strongest wish holds, its own requester alone ends it.
func TestCombine(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	entry := func(c Component, r Requester, s ComponentState, expires time.Duration) ComponentEntry {
		e := ComponentEntry{Component: c, Requester: r, State: s}
		if expires != 0 {
			e.Expires = now.Add(expires)
		}
		return e
	}
	for _, c := range []struct {
		name    string
		entries []ComponentEntry
		about   Component
		want    ComponentState
		by      []Requester
	}{
		{"nothing", nil, IMAPComponent, Active, nil},
		{"one", []ComponentEntry{entry(IMAPComponent, HealthAPI, Draining, 0)}, IMAPComponent, Draining, []Requester{HealthAPI}},
		{"another component", []ComponentEntry{entry(IMAPComponent, HealthAPI, Inactive, 0)}, SMTPComponent, Active, nil},
		{"strongest wins, both hold", []ComponentEntry{entry(IMAPComponent, HealthAPI, Draining, 0), entry(IMAPComponent, Sidelined, Inactive, 0)},
			IMAPComponent, Inactive, []Requester{Sidelined, HealthAPI}},
		{"server offline holds all", []ComponentEntry{entry(ServerOffline, Maintenance, Inactive, 0)}, Transport, Inactive, []Requester{Maintenance}},
		{"but not monitoring", []ComponentEntry{entry(ServerOffline, Maintenance, Inactive, 0)}, Monitoring, Active, nil},
		{"nor recovery", []ComponentEntry{entry(ServerOffline, Maintenance, Inactive, 0)}, RecoveryActions, Active, nil},
		{"expired", []ComponentEntry{entry(IMAPComponent, Functional, Inactive, -time.Second)}, IMAPComponent, Active, nil},
		{"not yet expired", []ComponentEntry{entry(IMAPComponent, Functional, Inactive, time.Second)}, IMAPComponent, Inactive, []Requester{Functional}},
		{"Active entry holds nothing", []ComponentEntry{entry(IMAPComponent, Functional, Active, 0)}, IMAPComponent, Active, nil},
		{"a state of a newer version", []ComponentEntry{entry(IMAPComponent, "Later", "Frozen", 0)}, IMAPComponent, Inactive, []Requester{"Later"}},
	} {
		got, holds := Combine(c.entries, c.about, now)
		var by []Requester
		for _, h := range holds {
			by = append(by, h.Requester)
		}
		if got != c.want || !slices.Equal(by, c.by) {
			t.Errorf("%s: %s by %v, want %s by %v", c.name, got, by, c.want, c.by)
		}
	}
}

func TestComponentEntries(t *testing.T) {
	rows := func(yield func(string, []byte) bool) {
		_ = yield("components/MBX1/imap/Sidelined", []byte(`{"state":"Draining","reason":"disk"}`)) &&
			yield("components/MBX1/smtp/HealthAPI", []byte(`{`)) &&
			yield("components/MBX1/dns/Sidelined", []byte(`{"state":"Active"}`)) &&
			yield("components/MBX1/odd", nil)
	}
	got := ComponentEntries(rows)
	if len(got) != 3 || got[2].State != Active || got[2].Reason != "" || got[0].Component != IMAPComponent || got[0].State != Draining || got[0].Requester != Sidelined ||
		got[1].Component != SMTPComponent || got[1].State != Inactive {
		t.Fatalf("%+v", got)
	}
}

func TestHealthOrder(t *testing.T) {
	for i, s := range healthOrder {
		if s.Badness() != i {
			t.Errorf("%s: %d, want %d", s, s.Badness(), i)
		}
	}
	if HealthState("Odd").Badness() != Unavailable.Badness() {
		t.Error("an unknown state does not count as Unavailable")
	}
	for s, want := range map[HealthState]bool{HealthOK: false, HealthDisabled: false, Repairing: false, Unavailable: false, Degraded: true, Unhealthy: true, Unrecoverable2: true} {
		if s.Red() != want {
			t.Errorf("%s red: %v", s, !want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		a, b ComponentState
		want bool
	}{{Inactive, Draining, true}, {Draining, Draining, true}, {Active, Draining, false}, {"", Active, true}, {"Later", Inactive, true}} {
		if c.a.AtLeast(c.b) != c.want {
			t.Errorf("%q at least %q: want %v", c.a, c.b, c.want)
		}
	}
}
