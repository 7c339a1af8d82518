package notify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/org"
)

// Limits of alerts.
const (
	maxAlerts   = 1000
	maxSentence = 400
	maxObject   = 120
	maxServers  = 8
)

// Report is something that somebody should know.
type Report struct {
	// Code of the operator event, Name its name.
	Code  int    `json:"code"`
	Name  string `json:"name,omitempty"`
	Level string `json:"level"` // LevelWarn, LevelError
	// Object is what it is about: an alert is one code and one object.
	Object   string `json:"object"`
	Sentence string `json:"sentence"`
	Action   string `json:"action,omitempty"` // what to do
	Set      string `json:"set,omitempty"`    // the health set
	// Critical reports of level error are told in quiet hours too.
	Critical bool `json:"critical,omitempty"`
	// Lasting says that somebody will say when it is over: a call of Clear, or an
	// event that ends it. Other alerts close after an hour without a report,
	// these after a week.
	Lasting bool `json:"lasting,omitempty"`
}

// Key names the alert of a report.
func (r Report) Key() string { return Key(r.Code, r.Object) }

// Key names the alert about an object.
func Key(code int, object string) string { return fmt.Sprintf("%d/%s", code, object) }

// idOf is the identity of an alert: short enough to be typed.
func idOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:5])
}

// bounded cuts what may come from outside.
func (r Report) bounded() Report {
	r.Sentence, r.Object = clip(r.Sentence, maxSentence), clip(r.Object, maxObject)
	r.Action, r.Name, r.Set = clip(r.Action, maxSentence), clip(r.Name, 60), clip(r.Set, 60)
	if r.Level = strings.ToLower(r.Level); r.Level != LevelError {
		r.Level = LevelWarn
	}
	return r
}

// clip cuts text at n bytes, between characters, and leaves no control characters.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s[:min(len(s), 4*n)])
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// State is how far an alert is.
type State string

// States of an alert.
const (
	Open         State = "open"
	Acknowledged State = "acknowledged"
	Closed       State = "closed"
)

// Alert is one thing that is wrong; row notify/alert/<id>.
type Alert struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	Report
	Servers []org.ServerName `json:"servers"` // who reported it
	Opened  time.Time        `json:"opened"`
	Last    time.Time        `json:"last"`
	Count   int              `json:"count"`

	AcknowledgedBy string    `json:"acknowledged_by,omitempty"`
	AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
	Comment        string    `json:"comment,omitempty"`
	ClosedAt       time.Time `json:"closed_at,omitzero"`
	ClosedWhy      string    `json:"closed_why,omitempty"`
}

// merge adds what was reported since to the alert of a row; the zero Alert for
// none. A closed alert opens again.
func (a Alert) merge(p pending) Alert {
	if a.ID == "" || a.State == Closed && p.count > 0 && p.last.After(a.ClosedAt) {
		a = Alert{ID: idOf(p.Key()), State: Open, Opened: p.first}
	}
	if p.count > 0 {
		lasting := a.Lasting || p.Lasting
		a.Report = p.Report
		a.Lasting = lasting
		a.Count += p.count
		if p.last.After(a.Last) {
			a.Last = p.last
		}
		if !slices.Contains(a.Servers, p.server) && len(a.Servers) < maxServers {
			a.Servers = append(slices.Clone(a.Servers), p.server)
			slices.Sort(a.Servers)
		}
	}
	if p.cleared != "" && a.State != Closed {
		a.State, a.ClosedAt, a.ClosedWhy = Closed, p.clearedAt, p.cleared
	}
	return a
}

// pending is what was reported here and is not yet in the row.
type pending struct {
	Report
	server    org.ServerName
	first     time.Time
	last      time.Time
	count     int
	observed  bool   // an event: an alert only where a rule covers it
	cleared   string // why it is over; empty: it is not
	clearedAt time.Time
}

// byAge orders alerts as they opened.
func byAge(a, b Alert) int {
	if c := a.Opened.Compare(b.Opened); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}
