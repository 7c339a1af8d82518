package safetynet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

func TestState(t *testing.T) {
	part := func(server, whose org.ServerName, state string) org.SafetyNetPart {
		return org.SafetyNetPart{Server: server, For: whose, State: state, Updated: start}
	}
	done := func(server, whose org.ServerName) org.SafetyNetPart {
		return part(server, whose, org.SafetyNetCompleted)
	}
	a, b, c := Member{Name: "A"}, Member{Name: "B"}, Member{Name: "C"}
	gone := func(m Member) Member { m.Away = true; return m }
	except, renewed := done("B", "A"), done("A", "")
	except.Except, renewed.Except = "q2", "q2"
	failed := done("A", "")
	failed.Failed = 1
	later := start.Add(time.Hour)
	for _, c := range []struct {
		name    string
		parts   []org.SafetyNetPart
		members []Member
		tune    func(*Question)
		want    string
		why     string
	}{
		{"nobody began", nil, []Member{a, b}, nil, StateNew, ""},
		{"nobody is there", nil, nil, nil, StateNew, ""},
		{"one began", []org.SafetyNetPart{part("A", "", org.SafetyNetRunning)}, []Member{a}, nil, StateRunning, "A"},
		{"one is through", []org.SafetyNetPart{done("A", "")}, []Member{a, b}, nil, StateRunning, "B"},
		{"all are through", []org.SafetyNetPart{done("A", ""), done("B", "")}, []Member{a, b}, nil, StateCompleted, ""},
		{"disabled", []org.SafetyNetPart{done("A", "")}, []Member{a}, func(q *Question) { q.Request.Disabled = true }, StateDisabled, ""},
		{"some failed", []org.SafetyNetPart{failed, done("B", "")}, []Member{a, b}, nil, StateFailed, ""},
		{"a part failed", []org.SafetyNetPart{part("A", "", org.SafetyNetFailed), done("B", "")}, []Member{a, b}, nil, StateFailed, ""},
		{"one is away", []org.SafetyNetPart{done("B", ""), done("C", "")}, []Member{gone(a), b, c}, nil, StateRunning, "B for A, C for A"},
		{"one stood in", []org.SafetyNetPart{done("B", ""), done("C", ""), done("B", "A")}, []Member{gone(a), b, c}, nil, StateRunning, "C for A"},
		{"all stood in", []org.SafetyNetPart{done("B", ""), done("C", ""), done("B", "A"), done("C", "A")}, []Member{gone(a), b, c}, nil, StateCompleted, ""},
		{"no copies", []org.SafetyNetPart{done("B", ""), done("C", "")}, []Member{gone(a), b, c}, func(q *Question) { q.Copies = false }, StatePartlyCompleted, "A"},
		{"two are away", []org.SafetyNetPart{done("C", ""), done("C", "A"), done("C", "B")}, []Member{gone(a), gone(b), c}, nil, StatePartlyCompleted, "A, B"},
		{"it was through before", []org.SafetyNetPart{done("A", ""), done("B", "")}, []Member{gone(a), b}, nil, StateCompleted, ""},
		{"it came back", []org.SafetyNetPart{done("B", ""), done("B", "A")}, []Member{a, b}, nil, StateRunning, "A"},
		{"with another queue", []org.SafetyNetPart{renewed, done("B", "")}, []Member{a, b}, nil, StateRunning, "B for A"},
		{"copies of the former", []org.SafetyNetPart{renewed, done("B", ""), except}, []Member{a, b}, nil, StateCompleted, ""},
		{"and then away", []org.SafetyNetPart{renewed, done("B", ""), except}, []Member{gone(a), b}, nil, StateCompleted, ""},
		{"not of the present", []org.SafetyNetPart{done("B", ""), except}, []Member{gone(a), b}, nil, StateRunning, "B for A"},
		{"too late", []org.SafetyNetPart{done("A", "")}, []Member{a, b}, func(q *Question) { q.Now = start.Add(72 * time.Hour) }, StateExpired, "B"},
		{"done in time", []org.SafetyNetPart{done("A", ""), done("B", "")}, []Member{a, b}, func(q *Question) { q.Now = start.Add(72 * time.Hour) }, StateCompleted, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := Question{Request: org.SafetyNetRequest{From: start.Add(-2 * time.Hour), To: start}, Parts: c.parts, Members: c.members,
				Copies: true, Hold: 48 * time.Hour, Now: later}
			if c.tune != nil {
				c.tune(&q)
			}
			if got, why := State(q); got != c.want || !strings.HasSuffix(why, c.why) {
				t.Errorf("%s (%s), want %s (%s)", got, why, c.want, c.why)
			}
		})
	}
}

// TestMembers shows whom a request concerns.
func TestMembers(t *testing.T) {
	w := newWorld(t)
	for _, s := range []org.ServerName{"A", "B", "C"} {
		w.put("servers/"+string(s), org.Server{Name: s})
		w.live(s, s != "B")
	}
	w.put(org.QueueKey("A"), org.QueueRow{Server: "A", Epoch: 4, TakenUpTo: 2, TakenAt: start.Add(-48 * time.Hour)})
	w.put(org.QueueKey("B"), org.QueueRow{Server: "B", Epoch: 4, TakenUpTo: 4, TakenAt: start.Add(-time.Minute)})
	w.put(org.QueueKey("D"), org.QueueRow{Server: "D", Epoch: 1})                                                    // removed, and not noticed yet
	w.put(org.QueueKey("E"), org.QueueRow{Server: "E", Epoch: 1, TakenUpTo: 1, TakenAt: start.Add(-48 * time.Hour)}) // removed long ago
	w.put(org.QueueKey("F"), org.QueueRow{Server: "F", Epoch: 1, TakenUpTo: 1})                                      // removed, nobody knows when
	r := org.SafetyNetRequest{From: start.Add(-time.Hour), To: start}
	g := group{w, "A"}
	got := members(w.view(), &r, 10*time.Minute, g.Alive)
	want := []Member{{Name: "A"}, {Name: "B", Away: true}, {Name: "D", Away: true}, {Name: "F", Away: true}}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
}
