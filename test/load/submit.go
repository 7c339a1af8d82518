package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Submitter is somebody with a mailbox who writes to the outside world, over
// the submission port, and to people and groups here as well.
type Submitter struct {
	Name    string
	Number  int
	User    User
	Target  *Target
	History *History
	Sizes   Sizes
	Pause   time.Duration
	Domains []string // outside; the first gets as many messages as all others
	Groups  []Group
	// OutsideOnly leaves the recipients here out, for measurements.
	OutsideOnly bool

	client *smtp.Client
	server string
	rand   *rand.Rand
	next   int
}

// Group is an address with members.
type Group struct {
	Address string
	Members []string
}

// Run sends until ctx ends. Each try is a message of its own, since two tries of
// one message may rightly both arrive outside: what was confirmed has to arrive
// once or be returned once, what got no answer may, what was refused may not.
func (s *Submitter) Run(ctx context.Context) {
	s.rand = rand.New(rand.NewPCG(uint64(s.Number), 99))
	defer s.drop()
	for ctx.Err() == nil {
		if s.client == nil && !s.connect(ctx) {
			continue
		}
		s.message(ctx)
		if s.Pause > 0 {
			pause(ctx, s.Pause)
		}
	}
}

func (s *Submitter) message(ctx context.Context) {
	s.next++
	id := ID(fmt.Sprintf("%s-%d", s.Name, s.next))
	to, expected := s.recipients()
	raw := Compose(id, s.User.Address, to, s.Sizes.Pick(s.rand), s.rand)
	sent := s.History.Begin(id, sha256.Sum256(raw), expected)
	s.History.Of(sent, s.User.Address, s.server)
	begun := time.Now()
	text, err := transfer(s.client, s.User.Address, to, raw)
	var answer *smtp.SMTPError
	switch {
	case err == nil:
		s.History.Kept(sent, text)
		s.History.End(sent, Confirmed)
		s.History.Did(s.Name, "submission 250", begun)
		return
	case !errors.As(err, &answer):
		s.History.Trouble(s.Name, s.server, Disconnect, err.Error())
		s.drop()
		return
	}
	s.History.End(sent, Refused)
	s.History.Trouble(s.Name, s.server, FailedNO, answer.Error())
	if !answer.Temporary() || s.client.Reset() != nil {
		s.drop()
	}
	pause(ctx, 100*time.Millisecond)
}

// recipients are whom to write to, and who has to get it: groups are people.
func (s *Submitter) recipients() (to, expected []string) {
	outside := func() string {
		d := s.Domains[0]
		if s.rand.IntN(2) == 0 {
			d = s.Domains[s.rand.IntN(len(s.Domains))]
		}
		return fmt.Sprintf("r%d@%s", s.rand.IntN(1000), d)
	}
	local := func() string { return s.Target.Users[s.rand.IntN(len(s.Target.Users))].Address }
	p := s.rand.IntN(10)
	switch {
	case s.OutsideOnly || p < 6:
		to = []string{outside()}
	case p == 6 && len(s.Groups) > 0:
		g := s.Groups[s.rand.IntN(len(s.Groups))]
		out := outside()
		return []string{g.Address, out}, append(append([]string(nil), g.Members...), out)
	default:
		to = []string{local(), outside()}
		if o := outside(); o != to[1] {
			to = append(to, o)
		}
	}
	return to, to
}

// transfer sends a message on a connection; text is what the server said when
// it took it.
func transfer(c *smtp.Client, from string, to []string, raw []byte) (text string, err error) {
	if err := c.Mail(from, nil); err != nil {
		return "", err
	}
	for _, r := range to {
		if err := c.Rcpt(r, nil); err != nil {
			return "", err
		}
	}
	w, err := c.Data()
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(w, bytes.NewReader(raw)); err != nil {
		return "", err
	}
	a, err := w.CloseWithResponse()
	if err != nil {
		return "", err
	}
	return a.StatusText, nil
}

// traceOf finds the trace in the words of a 250.
func traceOf(text string) string {
	_, t, _ := strings.Cut(text, "Kept as ")
	t, _, _ = strings.Cut(strings.TrimSpace(t), " ")
	return t
}

func (s *Submitter) connect(ctx context.Context) bool {
	srv := s.Target.pick(s.Number)
	c, err := submission(srv.Submission, s.Target.TLS, s.User)
	if err != nil {
		s.History.Trouble(s.Name, srv.Name, NoConnect, err.Error())
		pause(ctx, 200*time.Millisecond)
		return false
	}
	s.client, s.server = c, srv.Name
	s.History.At(s.Name, srv.Name)
	return true
}

// submission opens a session of a user.
func submission(addr string, conf *tls.Config, u User) (*smtp.Client, error) {
	nc, err := dial(addr)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	c, err := smtp.NewClientStartTLS(nc, conf)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.CommandTimeout, c.SubmissionTimeout = time.Minute, time.Minute
	if err = c.Auth(sasl.NewPlainClient("", u.Address, u.Password)); err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (s *Submitter) drop() {
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}
