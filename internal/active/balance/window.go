package balance

import (
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Window is a time of day, on some days of the week, in the server's time. The
// zero value is never open.
type Window struct {
	days     [7]bool // on which it begins
	from, to time.Duration
}

// ParseWindow reads "22:00-04:00" (every day) or "Sat,Sun 22:00-04:00"; the
// empty text is a window that is never open.
func ParseWindow(s string) (Window, error) {
	var w Window
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return w, nil
	}
	bad := func(why string) (Window, error) {
		return Window{}, kind.WithHint(kind.Errorf(kind.Invalid, "balance_window %q: %s", s, why), "for example Sat,Sun 22:00-04:00")
	}
	if len(fields) > 2 {
		return bad("want days and a time of day")
	}
	if len(fields) == 1 {
		w.days = [7]bool{true, true, true, true, true, true, true}
	} else {
		for _, name := range strings.Split(fields[0], ",") {
			d, ok := weekday(name)
			if !ok {
				return bad(fmt.Sprintf("%q is no day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)", name))
			}
			w.days[d] = true
		}
	}
	from, to, ok := strings.Cut(fields[len(fields)-1], "-")
	if !ok {
		return bad("want a time of day as 22:00-04:00")
	}
	var err error
	if w.from, err = clock(from); err != nil {
		return bad(err.Error())
	}
	if w.to, err = clock(to); err != nil {
		return bad(err.Error())
	}
	if w.from == w.to {
		return bad("it begins when it ends")
	}
	return w, nil
}

func weekday(name string) (time.Weekday, bool) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if strings.EqualFold(name, d.String()[:3]) {
			return d, true
		}
	}
	return 0, false
}

func clock(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is no time of day", s)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// Open tells whether t is inside the window.
func (w Window) Open(t time.Time) bool {
	at := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
	today, before := w.days[t.Weekday()], w.days[(t.Weekday()+6)%7]
	if w.from < w.to {
		return today && at >= w.from && at < w.to
	}
	return today && at >= w.from || before && at < w.to
}
