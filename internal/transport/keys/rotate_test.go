package keys

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/transport/settings"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// row reads "selector state age [seen age]", ages in hours before noon.
func row(s string) settings.DKIMKey {
	var selector, state string
	var age, seen int
	n, _ := fmt.Sscan(s, &selector, &state, &age, &seen)
	k := settings.DKIMKey{Domain: "a.example", Selector: selector, Algorithm: RSA, State: state}
	if strings.HasPrefix(selector, "e") {
		k.Algorithm = Ed25519
	}
	k.Created = noon.Add(-time.Duration(age) * time.Hour)
	k.Since = k.Created
	if n == 4 {
		k.Seen = noon.Add(-time.Duration(seen) * time.Hour)
	}
	return k
}

func TestRotateTable(t *testing.T) {
	for name, c := range map[string]struct {
		keys []string
		dns  map[string]Presence
		want string
	}{
		"nothing":                   {nil, nil, ""},
		"no answer":                 {[]string{"r1 publishing 9"}, nil, ""},
		"not there":                 {[]string{"r1 publishing 9"}, map[string]Presence{"r1": Absent}, ""},
		"there":                     {[]string{"r1 publishing 9"}, map[string]Presence{"r1": Present}, "r1 publishing seen"},
		"there for less":            {[]string{"r1 publishing 9 0"}, map[string]Presence{"r1": Present}, ""},
		"gone again":                {[]string{"r1 publishing 9 5"}, map[string]Presence{"r1": Absent}, "r1 publishing"},
		"seen, now no answer":       {[]string{"r1 publishing 9 5"}, nil, ""},
		"an hour":                   {[]string{"r1 publishing 9 1"}, map[string]Presence{"r1": Present}, "r1 signing"},
		"a clock that went back":    {[]string{"r1 publishing 9 -5"}, map[string]Presence{"r1": Present}, ""},
		"takes over":                {[]string{"r1 signing 99", "r2 publishing 9 1"}, map[string]Presence{"r2": Present}, "r2 signing, r1 retired"},
		"another algorithm stays":   {[]string{"e1 signing 99", "r2 publishing 9 1"}, map[string]Presence{"r2": Present}, "r2 signing"},
		"two at once":               {[]string{"r1 publishing 9 1", "r2 publishing 8 1"}, map[string]Presence{"r1": Present, "r2": Present}, "r1 retired, r2 signing"},
		"an older one late":         {[]string{"r1 publishing 9 1", "r2 signing 5"}, map[string]Presence{"r1": Present}, "r1 retired"},
		"overtaken before it began": {[]string{"r1 publishing 9", "r2 publishing 8 1"}, map[string]Presence{"r2": Present}, "r2 signing, r1 retired"},
		"retired for six days":      {[]string{"r1 retired 144"}, nil, ""},
		"retired for a week":        {[]string{"r1 retired 168"}, nil, "r1 removed"},
		"signing for years":         {[]string{"r1 signing 99999"}, nil, ""},
	} {
		var all []settings.DKIMKey
		for _, k := range c.keys {
			all = append(all, row(k))
		}
		var got []string
		for _, s := range Rotate(all, c.dns, time.Hour, noon) {
			what := s.Key.Selector + " " + s.Key.State
			if s.Remove {
				what = s.Key.Selector + " removed"
			} else if !s.Key.Seen.IsZero() && s.Key.State == settings.DKIMPublishing {
				what += " seen"
			}
			if s.Why == "" {
				t.Errorf("%s: %s without a reason", name, what)
			}
			got = append(got, what)
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}
