package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// TestAgainBySignal: SIGUSR2 ends the context with its own cause, and only then.
func TestAgainBySignal(t *testing.T) {
	ctx, stop := withAgain(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the signal was not heard")
	}
	if !errors.Is(context.Cause(ctx), errAgain) {
		t.Error(context.Cause(ctx))
	}
	outer, cancel := context.WithCancel(t.Context())
	ctx, stop2 := withAgain(outer)
	defer stop2()
	cancel()
	<-ctx.Done()
	if errors.Is(context.Cause(ctx), errAgain) {
		t.Error("an ordinary stop counts as a new start")
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]string{
		`{"version":"v1.2.3","commit":"x"}`: "v1.2.3", `{}`: "", `postern v1`: "", "": "",
		`{"version":"` + strings.Repeat("x", 201) + `"}`: "",
	} {
		if got := parseVersion([]byte(in)); got != want {
			t.Errorf("%.40q: %q, want %q", in, got, want)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add([]byte(`{"version":"v1.2.3"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v := parseVersion(b); len(v) > 200 {
			t.Errorf("%d bytes", len(v))
		}
	})
}

// TestHolder: repairs that take something away wait while any plan is carried
// out, and not for one that waits for a person.
func TestHolder(t *testing.T) {
	for _, c := range []struct {
		kind  string
		state org.PlanState
		want  string
	}{
		{"maintenance-start", org.PlanRunning, "maintenance-start x"}, {"upgrade", org.PlanUndoing, "upgrade x"}, {"drill", org.PlanRunning, "drill x"},
		{"upgrade", org.PlanHeld, ""}, {"maintenance-stop", org.PlanDone, ""}, {"drill", org.PlanPlanned, ""},
	} {
		b, err := json.Marshal(org.Plan{ID: "x", Kind: c.kind, State: c.state})
		if err != nil {
			t.Fatal(err)
		}
		v := cluster.NewView(1, map[string]cluster.Item{org.PlanPrefix + "w": {Value: []byte("{")}, org.PlanPrefix + "x": {Value: b}})
		if got := holder(v); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.kind, c.state, got, c.want)
		}
	}
}
