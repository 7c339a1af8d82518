package transport

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
)

func TestMilterConfig(t *testing.T) {
	c := Config{Milters: []MilterConfig{{Address: "127.0.0.1:8891"}, {Address: "/run/filter.sock", Timeout: conf.Duration(time.Second), Fail: "open"}}}
	d := c.WithDefaults()
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	if d.Milters[0].Fail != "closed" || d.Milters[0].Timeout.Std() != 30*time.Second || d.Milters[1] != c.Milters[1] || c.Milters[0].Fail != "" {
		t.Errorf("%+v of %+v", d.Milters, c.Milters)
	}
	for want, list := range map[string][]MilterConfig{
		`milter[0].address "": want`:           {{}},
		`milter[0].address "inet:x:1": want`:   {{Address: "inet:x:1"}},
		`milter[1].address "x:1": it is`:       {{Address: "x:1"}, {Address: "x:1"}},
		`milter[0].timeout -1s: cannot`:        {{Address: "x:1", Timeout: conf.Duration(-time.Second)}},
		`milter: 11 of them, at most 10 are a`: make([]MilterConfig, 11),
	} {
		if err := (Config{Milters: list}).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", list, err)
		}
	}
}
