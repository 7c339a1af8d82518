package sim

import (
	"context"
	"testing"
	"time"
)

// TestDismountAndMount: what an administrator dismounts stays so, takes nothing
// meanwhile, and is whole when it is mounted again.
func TestDismountAndMount(t *testing.T) {
	w := started(t, Options{})
	for i := range 5 {
		if err := w.Server(2).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	w.mustRun(t, 2, "database dismount", `{"database":"DB01"}`)
	eventually(t, "DB01 is active nowhere", func() bool { return w.mount(2, "DB01").Active == "" })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := w.Server(2).append(ctx, 99); err == nil {
		t.Error("a dismounted database takes a message")
	}
	if m := w.mount(3, "DB01"); m.Active != "" {
		t.Errorf("it was activated at %s by itself", m.Active)
	}
	w.mustRun(t, 3, "database mount", `{"database":"DB01"}`)
	eventually(t, "DB01 is active again", func() bool { return w.mount(2, "DB01").Active != "" })
	w.inSync(t, 2, "DB01", 3)
	w.Server(1).holdsOnce(t, 5)
}
