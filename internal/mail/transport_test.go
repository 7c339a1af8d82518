package mail

import (
	"testing"
	"time"
)

func TestTraceID(t *testing.T) {
	at := time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)
	a, b := NewTraceID(at), NewTraceID(at.Add(time.Millisecond))
	if len(a.String()) != 26 || a.String() >= b.String() {
		t.Errorf("%s and %s do not sort by time", a, b)
	}
	back, err := ParseTraceID(a.String())
	if err != nil || back != a {
		t.Errorf("%s came back as %s, %v", a, back, err)
	}
	for _, s := range []string{"", "0", a.String() + "0", "I" + a.String()[1:], a.String()[1:]} {
		if _, err := ParseTraceID(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

func FuzzParseTraceID(f *testing.F) {
	f.Add(NewTraceID(time.Now()).String())
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseTraceID(s)
		if err != nil {
			return
		}
		if back, err := ParseTraceID(id.String()); err != nil || back != id {
			t.Fatalf("%q was read as %s, which is read as %s, %v", s, id, back, err)
		}
	})
}
