package notify

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// pace is how messages are spread.
type pace struct {
	// hold is how long an alert waits for others of its kind, so that they go as
	// one message.
	hold time.Duration
	// gap is the least time between two messages of one kind about one code.
	gap time.Duration
	// test is how often a channel is tried.
	test time.Duration
}

// state is what was told through a channel, and by whom; row
// notify/state/<channel>. It is written by its owner only.
type state struct {
	Owner org.ServerName `json:"owner,omitempty"`
	Since time.Time      `json:"since,omitzero"`
	// Left is the owner that stopped in order.
	Left org.ServerName `json:"left,omitempty"`
	// Told is what the channel knows, by the alert's ID.
	Told map[string]told `json:"told,omitempty"`
	// Sent are the times of the messages of the last hour, oldest first.
	Sent []time.Time `json:"sent,omitempty"`
	// Codes are the times of the last messages about new alerts, by code.
	Codes map[int]time.Time `json:"codes,omitempty"`
	// Limited is set when messages were held back by the limit.
	Limited bool      `json:"limited,omitempty"`
	Tested  time.Time `json:"tested,omitzero"`
	LastOK  time.Time `json:"last_ok,omitzero"`
	// Failed are the servers that could not reach the channel, and when.
	Failed map[org.ServerName]time.Time `json:"failed,omitempty"`
	Error  string                       `json:"error,omitempty"`
}

// told is what a channel knows of an alert.
type told struct {
	Opened time.Time `json:"o"` // which opening
	At     time.Time `json:"t"`
	Times  int       `json:"n,omitempty"`
	Closed bool      `json:"c,omitempty"`
}

// Reason is why a message is sent.
type Reason string

// Reasons.
const (
	NewAlert  Reason = "alert"
	Reminder  Reason = "reminder"
	Escalated Reason = "escalation"
	AllClear  Reason = "closed"
	Summary   Reason = "summary" // of what a limit held back
	Test      Reason = "test"
)

// noMessages is how long nothing is due when nothing ever is.
const noMessages = time.Duration(1<<63 - 1)

// Message is what is told at one time through one channel.
type Message struct {
	Channel  string
	Reason   Reason
	Alerts   []Alert
	Server   org.ServerName // who tells it
	Time     time.Time
	NoQuorum bool
	Limit    bool // the limit of the hour is reached by this one
}

// due is an alert that a channel should hear of, and why.
type due struct {
	alert  Alert
	reason Reason
	at     time.Time
	rank   int
}

// next decides what is told next through a channel: the message, or none, and
// how long nothing will be due if nothing changes. It reads nothing but its
// arguments.
func next(c Channel, st state, alerts []Alert, rules []Rule, p pace, now time.Time) (m Message, ok bool, wait time.Duration) {
	m = Message{Channel: c.Name, Time: now}
	if c.Disabled {
		return m, false, noMessages
	}
	dues := duesOf(c, st, alerts, rules, p, now)
	ready, wait := readyOf(dues, st, p, now)
	if len(ready) == 0 {
		if t := st.Tested.Add(p.test); !now.Before(t) {
			m.Reason = Test
			return m, true, 0
		}
		return m, false, wait
	}
	recent := inLastHour(st.Sent, now)
	if len(recent) >= c.PerHour {
		return m, false, recent[len(recent)-c.PerHour].Add(time.Hour).Sub(now)
	}
	m.Limit = len(recent) == c.PerHour-1
	m.Reason = ready[0].reason
	if st.Limited && len(ready) > 1 {
		m.Reason = Summary
	}
	for _, d := range ready {
		if m.Reason == Summary || joins(d, ready[0]) {
			m.Alerts = append(m.Alerts, d.alert)
		}
	}
	return m, true, 0
}

// joins tells whether d goes into the same message as first: new alerts of one
// code, or anything else of one reason.
func joins(d, first due) bool {
	return d.reason == first.reason && (d.reason == Reminder || d.reason == AllClear || d.alert.Code == first.alert.Code)
}

// duesOf lists what the channel should hear of, now or later, the first first.
func duesOf(c Channel, st state, alerts []Alert, rules []Rule, p pace, now time.Time) []due {
	var out []due
	for _, a := range alerts {
		d, ok := dutyOf(c.Name, a, rules, now)
		t, known := st.Told[a.ID]
		known = known && t.Opened.Equal(a.Opened)
		switch {
		case known && a.State == Closed && !t.Closed:
			// Who was told that it is wrong is told that it is over.
			out = append(out, due{alert: a, reason: AllClear, at: a.ClosedAt.Add(p.hold)})
		case !ok || d.quiet || a.State != Open:
		case !known && d.escalates:
			out = append(out, due{alert: a, reason: Escalated, at: a.Opened.Add(d.after)})
		case !known:
			out = append(out, due{alert: a, reason: NewAlert, at: a.Opened.Add(max(d.after, p.hold))})
		case d.repeat > 0:
			out = append(out, due{alert: a, reason: Reminder, at: t.At.Add(d.repeat)})
		}
	}
	for i := range out {
		out[i].rank = rank(out[i])
	}
	slices.SortFunc(out, func(a, b due) int {
		if c := cmp.Or(a.rank-b.rank, a.at.Compare(b.at)); c != 0 {
			return c
		}
		return byAge(a.alert, b.alert)
	})
	return out
}

// rank orders what waits: errors before warnings, news before reminders.
func rank(d due) int {
	n := 2 * slices.Index([]Reason{NewAlert, Escalated, Reminder, AllClear}, d.reason)
	if d.alert.Level != LevelError {
		n++
	}
	return n
}

// readyOf is what may be told now, and how long it takes until more is.
func readyOf(dues []due, st state, p pace, now time.Time) (ready []due, wait time.Duration) {
	wait = noMessages
	for _, d := range dues {
		at := d.at
		if d.reason == NewAlert || d.reason == Escalated {
			if last, ok := st.Codes[d.alert.Code]; ok && last.Add(p.gap).After(at) {
				at = last.Add(p.gap)
			}
		}
		if w := at.Sub(now); w <= 0 {
			ready = append(ready, d)
		} else {
			wait = min(wait, w)
		}
	}
	if len(ready) > 0 && ready[0].reason == Reminder {
		// What is nearly due goes along.
		for _, d := range dues {
			if w := d.at.Sub(now); d.reason == Reminder && w > 0 && w <= p.gap {
				ready = append(ready, d)
			}
		}
	}
	return ready, wait
}

func inLastHour(sent []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(slices.Clone(sent), func(t time.Time) bool { return now.Sub(t) >= time.Hour || t.After(now) })
}

// after is the state when m was sent at a time.
func (st state) after(m Message, now time.Time) state {
	st.Told, st.Codes, st.Failed = maps.Clone(st.Told), maps.Clone(st.Codes), maps.Clone(st.Failed)
	if st.Told == nil {
		st.Told = map[string]told{}
	}
	if st.Codes == nil {
		st.Codes = map[int]time.Time{}
	}
	st.Sent = append(inLastHour(st.Sent, now), now)
	st.Tested, st.LastOK, st.Error = now, now, ""
	delete(st.Failed, m.Server)
	st.Limited = m.Limit
	for _, a := range m.Alerts {
		t := st.Told[a.ID]
		if !t.Opened.Equal(a.Opened) {
			t = told{Opened: a.Opened}
		}
		t.At, t.Closed = now, a.State == Closed
		t.Times++
		st.Told[a.ID] = t
		if m.Reason != Reminder && m.Reason != AllClear {
			st.Codes[a.Code] = now
		}
	}
	return st
}

// tidy forgets what was told of alerts that are no more.
func (st state) tidy(known func(id string) bool, now time.Time) state {
	maps.DeleteFunc(st.Told, func(id string, _ told) bool { return !known(id) })
	maps.DeleteFunc(st.Codes, func(_ int, t time.Time) bool { return now.Sub(t) >= time.Hour })
	return st
}
