package event

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
)

func TestList(t *testing.T) {
	l := NewLog(slog.New(slog.DiscardHandler))
	info := Definition{Code: 1, Name: "one", Level: slog.LevelInfo}
	warn := Definition{Code: 2, Name: "two", Level: slog.LevelWarn}
	for range 3 {
		l.Emit(info, "all is well")
		l.Emit(warn, "look here")
	}
	table := Commands(l)
	if err := command.Check(table); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   ListIn
		want int
	}{
		{ListIn{Count: 50, Level: "info"}, 6}, {ListIn{Count: 50, Level: "warn"}, 3}, {ListIn{Count: 2, Level: "info"}, 2},
		{ListIn{Count: 50, Level: "info", Code: 1}, 3}, {ListIn{Count: 50, Level: "error"}, 0},
	} {
		out, err := table[0].Run(context.Background(), c.in)
		if got, ok := out.([]Event); err != nil || !ok || len(got) != c.want {
			t.Errorf("%+v: %v, %v", c.in, out, err)
		}
	}
}

func TestMarkdown(t *testing.T) {
	page := Markdown([]Definition{
		{Code: 7, Name: "disk_full", Level: slog.LevelWarn, Meaning: "A | B.", Action: "Make room."}, {Code: 8, Name: "quiet", Meaning: "Nothing."},
	})
	for _, want := range []string{"| 7 | `disk_full` | warn | A \\| B. | Make room. |\n", "| 8 | `quiet` | info | Nothing. | nothing |\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
}
