package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/admin/admintest"
	"github.com/postern-mail/postern/internal/admin/audit"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

func lockCommand() command.Command {
	for _, c := range admintest.Commands(nil) {
		if c.Name() == "shelf lock" {
			return c
		}
	}
	panic("no shelf lock")
}

func count(s *admintest.State) int {
	n := 0
	for range s.Prefix(audit.Prefix) {
		n++
	}
	return n
}

func TestNewestAreKept(t *testing.T) {
	s := admintest.NewState()
	ctx := context.Background()
	var fill []audit.Write
	for i := range audit.Keep + 20 {
		fill = append(fill, audit.Write{Key: fmt.Sprintf("%s%016x00000000", audit.Prefix, i), Value: []byte("{}")})
	}
	if err := s.Write(ctx, fill); err != nil {
		t.Fatal(err)
	}
	l := audit.New(audit.Config{Server: "A"}, s, slog.New(slog.DiscardHandler))
	r, err := l.Begin(ctx, lockCommand(), command.Caller{Name: "x"}, admintest.LockIn{Address: "a"})
	if err != nil || count(s) != audit.Keep {
		t.Fatalf("%d records, %v", count(s), err)
	}
	l.End(ctx, r, errors.New("no"))
	if _, ok := s.Get(audit.Prefix + r.ID); !ok || count(s) != audit.Keep {
		t.Errorf("%d records", count(s))
	}
}

func TestOrderAndFile(t *testing.T) {
	s := admintest.NewState()
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	l := audit.New(audit.Config{Server: "A", File: file}, s, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r, err := l.Begin(ctx, lockCommand(), command.Caller{Name: fmt.Sprint(i)}, admintest.LockIn{Address: "a@red.test", Code: "hush"})
			if err != nil {
				t.Error(err)
			}
			l.End(ctx, r, kind.Errorf(kind.Denied, "no"))
		})
	}
	wg.Wait()
	got, err := l.List(ctx, audit.ListIn{Count: 5})
	if err != nil || len(got) != 5 || got[0].ID >= got[4].ID || got[4].Error != "denied: no" || got[4].Params["code"] != "[secret]" {
		t.Errorf("%+v, %v", got, err)
	}
	b, err := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if err != nil || len(lines) != 40 || strings.Contains(string(b), "hush") {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, line := range lines {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestListFilters(t *testing.T) {
	s := admintest.NewState()
	ctx := context.Background()
	l := audit.New(audit.Config{Server: "A"}, s, slog.New(slog.DiscardHandler))
	for _, caller := range []command.Caller{{Name: "ann", Organization: "red"}, {Name: "bob", Organization: "blue"}, {Name: "root"}} {
		r, err := l.Begin(ctx, lockCommand(), caller, admintest.LockIn{Address: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if caller.Name != "root" {
			l.End(ctx, r, nil)
		}
	}
	for _, c := range []struct {
		in           audit.ListIn
		organization string
		want         int
	}{
		{audit.ListIn{Count: 10}, "", 3}, {audit.ListIn{Count: 10}, "red", 1}, {audit.ListIn{Count: 10, Caller: "bob"}, "red", 0},
		{audit.ListIn{Count: 10, Outcome: audit.Started}, "", 1}, {audit.ListIn{Count: 10, Command: "shelf"}, "", 3},
		{audit.ListIn{Count: 10, Command: "she"}, "", 0}, {audit.ListIn{}, "", 1}, {audit.ListIn{Count: 10, Since: 1}, "", 0},
	} {
		got, err := l.List(command.WithCaller(ctx, command.Caller{Organization: c.organization}), c.in)
		if err != nil || len(got) != c.want {
			t.Errorf("%+v of %q: %+v, %v", c.in, c.organization, got, err)
		}
	}
}
