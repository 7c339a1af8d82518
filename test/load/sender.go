package load

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/emersion/go-smtp"
)

// Sender sends messages over SMTP, one after the other, on one connection.
type Sender struct {
	Name    string
	Number  int // which server it likes
	Target  *Target
	History *History
	Sizes   Sizes
	Pause   time.Duration // between two messages, 0 for full speed
	// OneRecipient sends each message to one user, in turn.
	OneRecipient bool
	// More, when set, has one thing for each message that is to be sent; Run ends
	// when it is closed.
	More <-chan struct{}
	// From is the envelope sender, load@load.invalid when empty.
	From string
	// To, when set, says who gets the next message instead of users.
	To func() []string
	// Groups, where there are some, get one of ten messages.
	Groups []Group
	// Sent, when set, is told the bytes of each confirmed message.
	Sent func(bytes int)
	// Dial, when set, connects instead of a look at Target's servers (LMTP, a
	// peer in a benchmark).
	Dial func() (*smtp.Client, string, error)

	client *smtp.Client
	server string
	rand   *rand.Rand
	next   int
}

// Run sends until ctx ends. A message whose outcome is not known, or that got
// a temporary error, is sent again until it is confirmed, so that doubles show.
func (s *Sender) Run(ctx context.Context) {
	s.rand = rand.New(rand.NewPCG(uint64(s.Number), uint64(time.Now().UnixNano())))
	defer s.drop()
	for ctx.Err() == nil {
		if s.More != nil {
			if _, more := <-s.More; !more {
				return
			}
		}
		s.message(ctx)
		if s.Pause > 0 {
			pause(ctx, s.Pause)
		}
	}
}

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// message sends one message to one to three users and stays with it.
func (s *Sender) message(ctx context.Context) {
	s.next++
	id := ID(fmt.Sprintf("%s-%d", s.Name, s.next))
	to := s.recipients()
	group := s.group()
	if group.Address != "" {
		to = group.Members
	}
	from := cmp.Or(s.From, "load@load.invalid")
	raw := Compose(id, from, to, s.Sizes.Pick(s.rand), s.rand)
	sent := s.History.Begin(id, sha256.Sum256(raw), to)
	begun := time.Now()
	for ctx.Err() == nil {
		if s.client == nil && !s.connect(ctx) {
			continue
		}
		text, err := transfer(s.client, from, over(to, group), raw)
		if err == nil {
			s.History.Kept(sent, text)
			s.History.End(sent, Confirmed)
			s.History.Did(s.Name, "smtp 250", begun)
			if s.Sent != nil {
				s.Sent(len(raw))
			}
			return
		}
		var answer *smtp.SMTPError
		if !errors.As(err, &answer) {
			// Without an answer the message may be there or not; asking again on
			// another server must not make two of it.
			s.History.Trouble(s.Name, s.server, Disconnect, err.Error())
			s.drop()
			continue
		}
		if answer.Code == 421 {
			s.History.Trouble(s.Name, s.server, Goodbye, answer.Error())
			s.drop()
			continue
		}
		s.History.Trouble(s.Name, s.server, FailedNO, answer.Error())
		if !answer.Temporary() {
			s.History.End(sent, Refused)
			s.drop()
			return
		}
		if s.client.Reset() != nil {
			s.drop()
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// group is where this message goes instead of to users: one of ten does, where
// there are groups.
func (s *Sender) group() Group {
	if len(s.Groups) == 0 || s.rand.IntN(10) > 0 {
		return Group{}
	}
	return s.Groups[s.rand.IntN(len(s.Groups))]
}

// over are the recipients of the envelope.
func over(to []string, g Group) []string {
	if g.Address == "" {
		return to
	}
	return []string{g.Address}
}

func (s *Sender) recipients() []string {
	if s.To != nil {
		return s.To()
	}
	if s.OneRecipient {
		return []string{s.Target.Users[(s.next*31+s.Number)%len(s.Target.Users)].Address}
	}
	n := 1
	switch p := s.rand.IntN(10); {
	case p == 9:
		n = 3
	case p >= 7:
		n = 2
	}
	n = min(n, len(s.Target.Users))
	var to []string
	for _, i := range s.rand.Perm(len(s.Target.Users))[:n] {
		to = append(to, s.Target.Users[i].Address)
	}
	return to
}

func (s *Sender) connect(ctx context.Context) bool {
	c, server, err := s.dial()
	if err != nil {
		s.History.Trouble(s.Name, server, NoConnect, err.Error())
		pause(ctx, 100*time.Millisecond)
		return false
	}
	s.client, s.server = c, server
	s.History.At(s.Name, server)
	return true
}

func (s *Sender) dial() (*smtp.Client, string, error) {
	if s.Dial != nil {
		c, server, err := s.Dial()
		if err == nil {
			err = greet(c)
		}
		return c, server, err
	}
	var c *smtp.Client
	srv, err := s.Target.reach(s.Number, func(srv *Server) error {
		conn, err := dial(srv.SMTP)
		if err != nil {
			return err
		}
		c = smtp.NewClient(conn)
		return greet(c)
	})
	return c, srv.Name, err
}

// greet says hello, and hangs up where that is not answered well.
func greet(c *smtp.Client) error {
	c.CommandTimeout, c.SubmissionTimeout = time.Minute, time.Minute
	err := c.Hello("load.invalid")
	if err != nil {
		c.Close()
	}
	return err
}

func (s *Sender) drop() {
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}
