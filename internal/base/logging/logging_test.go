package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

func TestTraceIsOnTheLine(t *testing.T) {
	var b bytes.Buffer
	log, level, err := New(&b, Config{Format: "json", Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	id := NewTraceID()
	ctx := WithTrace(context.Background(), id)
	log.InfoContext(ctx, "quiet")
	log.With("a", 1).WithGroup("g").WarnContext(ctx, "loud", "b", 2)
	if strings.Contains(b.String(), "quiet") || !strings.Contains(b.String(), id) {
		t.Errorf("%s", b.String())
	}
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Error(err)
	}
	level.Set(slog.LevelDebug)
	b.Reset()
	log.Debug("now")
	if !strings.Contains(b.String(), "now") || strings.Contains(b.String(), "trace") {
		t.Errorf("%s", b.String())
	}
}

func TestConfig(t *testing.T) {
	for c, ok := range map[Config]bool{
		{}: true, {Format: "text", Level: "error"}: true, {Level: "WARN"}: true, {Format: "xml"}: false, {Level: "loud"}: false,
	} {
		if _, _, err := New(&bytes.Buffer{}, c); (err == nil) != ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestValidTraceID(t *testing.T) {
	for s, ok := range map[string]bool{
		NewTraceID(): true, "": false, strings.Repeat("0", 32): false, strings.Repeat("A", 32): false, strings.Repeat("a", 31) + "\n": false,
	} {
		if ValidTraceID(s) != ok {
			t.Errorf("%q: want %v", s, ok)
		}
	}
}
