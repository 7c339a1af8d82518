package health

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

func jsonUnmarshal(raw []byte, v any) error { return json.Unmarshal(raw, v) }

// TestDoorIsRestarted walks chain A as far as its first step: the door breaks,
// the service is restarted, all is well again, and the log has it.
func TestDoorIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		defer s.stop()
		wait(time.Minute)
		const id = `IMAP.Protocol\SelfTest`
		if got := s.shown(id); got != org.HealthOK {
			t.Fatalf("%s is %s after a minute", id, got)
		}
		s.hands.began = time.Now()
		d.set(errBroken)
		wait(12 * time.Second)
		if got := s.shown(id); got != org.HealthOK {
			t.Fatalf("%s is %s after two bad results", id, got)
		}
		wait(20 * time.Second)
		if got := s.hands.all(); len(got) != 1 {
			t.Fatalf("deeds %v, want one restart", got)
		}
		d.set(nil)
		wait(time.Minute)
		if got := s.shown(id); got != org.HealthOK {
			t.Fatalf("%s is %s after the repair", id, got)
		}
		log := s.log()
		if len(log) != 1 || log[0].Action != "RestartService" || log[0].Target != "imap" || !log[0].Allowed || log[0].Result != "done" ||
			len(log[0].Evidence) < 3 || log[0].Ended.IsZero() || log[0].Cause == "" {
			t.Fatalf("log %+v", log)
		}
	})
}
