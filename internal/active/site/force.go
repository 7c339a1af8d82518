package site

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Loss is what a forced activation is judged by, as the server finds it at which
// it is ordered.
type Loss struct {
	Me       org.ServerName
	Voting   bool // this server keeps the agreed state
	Quorum   bool
	LostFor  time.Duration // since the agreed state was last heard
	Patience time.Duration // how long it has to be
	Revision int64         // of the agreed state as this server has it
	Servers  []Server
	Bases    []Database
}

// Server is a member with what it tells.
type Server struct {
	Name    org.ServerName
	Site    org.SiteName
	Witness bool
	Voter   bool
	Left    bool // given up already, by an earlier activation
	Heard   bool // here
	// The rest is what it told last, and only known of who is heard.
	Hears    []org.ServerName
	Quorum   bool
	Revision int64
}

// Database is a database with who has everything that was confirmed.
type Database struct {
	Name   org.DatabaseName
	Active org.ServerName
	InSync []org.ServerName
	Copies []org.ServerName
}

// GiveUp is who a forced activation of a site leaves behind: the servers of other
// sites that are not heard, and those named besides.
func GiveUp(l Loss, at org.SiteName, also []org.ServerName) []org.ServerName {
	var out []org.ServerName
	for _, s := range l.Servers {
		if s.Name != l.Me && !s.Left && (s.Site != at && !s.Heard || slices.Contains(also, s.Name)) {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Text is what has to be typed for it.
func Text(at org.SiteName, giveUp []org.ServerName) string {
	return fmt.Sprintf("activate %s and give up %s", at, words(giveUp))
}

// Refused says why a site may not be activated by force here and now, nothing
// where it may.
func Refused(l Loss, at org.SiteName, giveUp, also []org.ServerName) []string {
	var no []string
	say := func(format string, args ...any) { no = append(no, fmt.Sprintf(format, args...)) }
	if me := l.server(l.Me); me.Site != at {
		say("%s stands in site %s: run it at a server of site %s", l.Me, me.Site, at)
	}
	switch {
	case !l.Voting:
		say("%s keeps no agreed state, because it does not vote: run it at a server that does", l.Me)
	case l.Quorum:
		say("the agreed state answers: nothing has to be forced (postern site switchover moves a site)")
	case l.LostFor < l.Patience:
		say("the agreed state has not answered for %s only, wait until it is %s", l.LostFor.Round(time.Second), l.Patience)
	}
	if len(giveUp) == 0 {
		say("no server of another site is lost")
	}
	for _, name := range also {
		if l.server(name).Name == "" {
			say("%s is not a member", name)
		}
	}
	for _, s := range l.Servers {
		gone := slices.Contains(giveUp, s.Name)
		switch {
		case gone && s.Heard:
			say("%s, which would be given up, is heard", s.Name)
		case gone || s.Name == l.Me || !s.Heard:
			continue
		}
		for _, h := range s.Hears {
			if slices.Contains(giveUp, h) {
				say("%s, which would be given up, is heard by %s", h, s.Name)
			}
		}
		switch {
		case gone:
		case s.Quorum:
			say("the agreed state answers %s", s.Name)
		case s.Voter && s.Revision > l.Revision:
			say("%s knows a newer agreed state (revision %d, here %d): run it there", s.Name, s.Revision, l.Revision)
		}
	}
	return no
}

func (l Loss) server(name org.ServerName) Server {
	for _, s := range l.Servers {
		if s.Name == name {
			return s
		}
	}
	return Server{}
}

// Outcome is what becomes of one database.
type Outcome struct {
	Database org.DatabaseName
	Complete bool // a server that is kept has everything that was confirmed
	Text     string
}

// Outlook says what becomes of each database.
func Outlook(l Loss, giveUp []org.ServerName) []Outcome {
	var out []Outcome
	kept := func(list []org.ServerName) []org.ServerName {
		return slices.DeleteFunc(slices.Clone(list), func(s org.ServerName) bool {
			x := l.server(s)
			return slices.Contains(giveUp, s) || x.Left || !x.Heard && s != l.Me
		})
	}
	for _, d := range l.Bases {
		o := Outcome{Database: d.Name}
		whole, rest := kept(d.InSync), kept(d.Copies)
		switch {
		case len(whole) > 0 && slices.Contains(whole, d.Active):
			o.Complete, o.Text = true, fmt.Sprintf("stays active on %s", d.Active)
		case len(whole) > 0:
			o.Complete, o.Text = true, fmt.Sprintf("is activated on one of %s; nothing confirmed is missing there", words(whole))
		case len(rest) > 0:
			o.Text = fmt.Sprintf("stays down: only %s had everything that was confirmed; with loss: postern database move %s --to %s --mount-dial BestEffort",
				cmp.Or(words(d.InSync), "nobody"), d.Name, rest[0])
		default:
			o.Text = "stays down: no server that is heard has a copy"
		}
		out = append(out, o)
	}
	return out
}

func words(list []org.ServerName) string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return strings.Join(out, " ")
}
