package notify

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"slices"
	"strings"
	"time"
)

// maxListed is how many alerts a message lists; the rest is counted.
const maxListed = 20

// Subject is the message in one line.
func (m Message) Subject() string {
	var s string
	first := Alert{}
	if len(m.Alerts) > 0 {
		first = m.Alerts[0]
	}
	open, closed := split(m.Alerts)
	switch {
	case m.Reason == Test:
		s = "test of channel " + m.Channel
	case m.Reason == Summary:
		s = fmt.Sprintf("summary: %d alerts, %d of them over", len(m.Alerts), len(closed))
	case len(m.Alerts) > 1 && len(closed) == len(m.Alerts):
		s = fmt.Sprintf("over: %d alerts", len(closed))
	case len(closed) == 1:
		s = "over" + strings.Replace(m.seen(first), " seen", ", seen", 1) + ": " + first.Sentence
	case len(open) > 1:
		s = fmt.Sprintf("%s: %d alerts, first%s: %s", worst(m.Alerts), len(open), m.seen(first), first.Sentence)
	default:
		s = first.Level + m.seen(first) + ": " + first.Sentence
	}
	switch m.Reason {
	case Reminder:
		s = "still open: " + s
	case Escalated:
		s = "nobody acknowledged: " + s
	}
	if m.NoQuorum {
		s = "no quorum: " + s
	}
	return clip(s, 160)
}

// seen says who reported an alert, unless that is who tells it or the sentence
// names the server: the reader would look at the wrong machine.
func (m Message) seen(a Alert) string {
	if len(a.Servers) == 1 && a.Servers[0] == m.Server || len(a.Servers) == 0 {
		return ""
	}
	for _, s := range a.Servers {
		if !strings.Contains(a.Sentence, string(s)) {
			return " seen by " + names(a)
		}
	}
	return ""
}

func split(all []Alert) (open, closed []Alert) {
	for _, a := range all {
		if a.State == Closed {
			closed = append(closed, a)
		} else {
			open = append(open, a)
		}
	}
	return open, closed
}

func worst(all []Alert) string {
	if slices.ContainsFunc(all, func(a Alert) bool { return a.Level == LevelError }) {
		return LevelError
	}
	return LevelWarn
}

// Text is the message for a person.
func (m Message) Text() string {
	var b strings.Builder
	if m.Reason == Test {
		fmt.Fprintf(&b, "This is a test of the notification channel %s. Nothing is wrong.\n", m.Channel)
	}
	for i, a := range m.Alerts {
		if i == maxListed {
			fmt.Fprintf(&b, "and %d more: postern alert list\n\n", len(m.Alerts)-maxListed)
			break
		}
		fmt.Fprintf(&b, "%s %s (%s)\n", strings.ToUpper(a.Level), a.Sentence, a.State)
		fmt.Fprintf(&b, "  event %d %s, about %s, seen by %s\n", a.Code, a.Name, a.Object, names(a))
		fmt.Fprintf(&b, "  since %s, %d times, last %s\n", stamp(a.Opened), a.Count, stamp(a.Last))
		switch {
		case a.State == Closed:
			fmt.Fprintf(&b, "  over since %s: %s\n", stamp(a.ClosedAt), a.ClosedWhy)
		default:
			if a.Action != "" {
				fmt.Fprintf(&b, "  what to do: %s\n", a.Action)
			}
			fmt.Fprintf(&b, "  postern alert ack %s\n", a.ID)
		}
		b.WriteString("\n")
	}
	if m.Limit {
		b.WriteString("This was the last message of this hour: the channel's limit is reached. What comes is told in a summary.\n")
	}
	if m.NoQuorum {
		b.WriteString("The group has no quorum: this server tells what the servers that it hears know. Acknowledging works when quorum is back.\n")
	}
	fmt.Fprintf(&b, "Told by %s at %s\n", m.Server, stamp(m.Time))
	return b.String()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func names(a Alert) string {
	out := make([]string, len(a.Servers))
	for i, s := range a.Servers {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

// Short is the message for a telephone: 160 characters.
func (m Message) Short() string { return clip("Postern "+string(m.Server)+": "+m.Subject(), 160) }

// mail is the message as RFC 5322 wants it, with CRLF.
func (m Message) mail(c Channel) ([]byte, error) {
	var id [12]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	_, domain, _ := strings.Cut(c.From, "@")
	var b bytes.Buffer
	head := func(name, value string) { b.WriteString(name + ": " + value + "\r\n") }
	head("From", "Postern <"+c.From+">")
	head("To", strings.Join(c.To, ",\r\n "))
	head("Subject", mime.QEncoding.Encode("utf-8", "[Postern "+string(m.Server)+"] "+m.Subject()))
	head("Date", m.Time.Format(time.RFC1123Z))
	head("Message-ID", "<"+hex.EncodeToString(id[:])+".notify@"+domain+">")
	// RFC 3834: no out-of-office answers to it.
	head("Auto-Submitted", "auto-generated")
	head("MIME-Version", "1.0")
	head("Content-Type", "text/plain; charset=utf-8")
	head("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(strings.ReplaceAll(m.Text(), "\n", "\r\n"))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// payload is what a webhook gets.
type payload struct {
	Version  int            `json:"version"`
	Reason   Reason         `json:"reason"`
	Channel  string         `json:"channel"`
	Server   string         `json:"server"`
	Time     time.Time      `json:"time"`
	NoQuorum bool           `json:"no_quorum,omitempty"`
	Subject  string         `json:"subject"`
	Text     string         `json:"text"`
	Count    int            `json:"count"`
	Alerts   []payloadAlert `json:"alerts"` // the first 20
}

type payloadAlert struct {
	ID       string    `json:"id"`
	State    State     `json:"state"`
	Code     int       `json:"code"`
	Name     string    `json:"name"`
	Level    string    `json:"level"`
	Object   string    `json:"object"`
	Sentence string    `json:"sentence"`
	Set      string    `json:"set,omitempty"`
	Servers  []string  `json:"servers"`
	Opened   time.Time `json:"opened"`
	Last     time.Time `json:"last"`
	Count    int       `json:"count"`
	Closed   time.Time `json:"closed,omitzero"`
}

func (m Message) payload() payload {
	p := payload{Version: 1, Reason: m.Reason, Channel: m.Channel, Server: string(m.Server), Time: m.Time.UTC(), NoQuorum: m.NoQuorum,
		Subject: m.Subject(), Text: m.Text(), Count: len(m.Alerts), Alerts: []payloadAlert{}}
	for _, a := range m.Alerts[:min(len(m.Alerts), maxListed)] {
		x := payloadAlert{ID: a.ID, State: a.State, Code: a.Code, Name: a.Name, Level: a.Level, Object: a.Object, Sentence: a.Sentence,
			Set: a.Set, Opened: a.Opened, Last: a.Last, Count: a.Count, Closed: a.ClosedAt}
		for _, s := range a.Servers {
			x.Servers = append(x.Servers, string(s))
		}
		p.Alerts = append(p.Alerts, x)
	}
	return p
}
