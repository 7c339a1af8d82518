package site

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/transcript"
	"github.com/postern-mail/postern/internal/org"
)

// TestForce plays testdata/force/force.txt. First line: me=NAME activate=SITE,
// then quorum, client (it does not vote), lost=D, rev=N, also=NAMES. A server:
// name, site, then witness, voter, left, heard, hears=NAMES, quorum, rev=N. A
// database: db name active in-sync copies, lists with commas.
func TestForce(t *testing.T) {
	transcript.Check(t, "testdata/force/*.txt", func(input string) string {
		l, at, also := lossOf(input)
		giveUp := GiveUp(l, at, also)
		if no := Refused(l, at, giveUp, also); len(no) > 0 {
			return "refused: " + strings.Join(no, "\nrefused: ")
		}
		out := []string{Text(at, giveUp)}
		for _, o := range Outlook(l, giveUp) {
			out = append(out, fmt.Sprintf("%s %s", o.Database, o.Text))
		}
		return strings.Join(out, "\n")
	})
}

func names(s string) (out []org.ServerName) {
	for _, n := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		out = append(out, org.ServerName(n))
	}
	return out
}

func lossOf(input string) (l Loss, at org.SiteName, also []org.ServerName) {
	l.Voting, l.LostFor, l.Patience, l.Revision = true, 10*time.Minute, 5*time.Minute, 100
	for i, line := range strings.Split(input, "\n") {
		w := strings.Fields(line)
		if i > 0 && w[0] == "db" {
			l.Bases = append(l.Bases, Database{Name: org.DatabaseName(w[1]), Active: org.ServerName(w[2]), InSync: names(w[3]), Copies: names(w[4])})
			continue
		}
		s := Server{Revision: 100}
		flags := w
		if i > 0 {
			s.Name, s.Site, flags = org.ServerName(w[0]), org.SiteName(w[1]), w[2:]
		}
		for _, f := range flags {
			k, v, _ := strings.Cut(f, "=")
			n, _ := strconv.ParseInt(v, 10, 64)
			d, _ := time.ParseDuration(v)
			switch {
			case i == 0 && k == "me":
				l.Me = org.ServerName(v)
			case i == 0 && k == "activate":
				at = org.SiteName(v)
			case i == 0 && k == "quorum":
				l.Quorum = true
			case i == 0 && k == "client":
				l.Voting = false
			case i == 0 && k == "lost":
				l.LostFor = d
			case i == 0 && k == "rev":
				l.Revision = n
			case i == 0 && k == "also":
				also = names(v)
			case k == "hears":
				s.Hears = names(v)
			case k == "rev":
				s.Revision = n
			default:
				s.Witness = s.Witness || k == "witness"
				s.Voter = s.Voter || k == "voter"
				s.Left = s.Left || k == "left"
				s.Heard = s.Heard || k == "heard"
				s.Quorum = s.Quorum || k == "quorum"
			}
		}
		if i > 0 {
			l.Servers = append(l.Servers, s)
		}
	}
	slices.Sort(also)
	return l, at, also
}
