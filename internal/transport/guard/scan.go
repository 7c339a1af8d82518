package guard

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const (
	// scansAtOnce is how many messages one scanner gets at a time; others wait
	// for scanQueue, and then count as not scanned.
	scansAtOnce = 32
	scanQueue   = 10 * time.Second
	// downAfter is how many failures in a row make a scanner one that is down.
	downAfter = 3
	// maxAdded are the fields that a scanner may add, maxAddedValue the octets of
	// the value of one. With maxPrepend octets in front of the message no more are
	// added: doors take 64 KiB.
	maxAdded, maxAddedValue = 20, 2000
	maxPrepend              = 32 << 10
)

// scanner is one that is asked, and how it does.
type scanner struct {
	name string
	scrub.Scanner
	slots chan struct{}

	mu     sync.Mutex // guards failed
	failed int        // times in a row

	edits sync.Once // told that nothing is changed or removed
}

func newScanner(name string, s scrub.Scanner) *scanner {
	if s == nil {
		return nil
	}
	return &scanner{name: name, Scanner: s, slots: make(chan struct{}, scansAtOnce)}
}

// ask scans when it is this message's turn.
func (s *scanner) ask(ctx context.Context, m scrub.Mail) (scrub.Finding, error) {
	turn := time.NewTimer(scanQueue)
	defer turn.Stop()
	select {
	case s.slots <- struct{}{}:
	case <-turn.C:
		return scrub.Finding{}, kind.Errorf(kind.Busy, "%s: %d messages wait already", s.name, scansAtOnce)
	case <-ctx.Done():
		return scrub.Finding{}, ctx.Err()
	}
	defer func() { <-s.slots }()
	return s.Scan(ctx, m)
}

// ended notes how a scan ended, and tells whether the scanner is down or up only now.
func (s *scanner) ended(err error) (changed, down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		was := s.failed
		s.failed = 0
		return was >= downAfter, false
	}
	s.failed++
	return s.failed == downAfter, true
}

// scanWith asks a scanner and counts.
func (g *Guard) scanWith(ctx context.Context, s *scanner, m scrub.Mail) (scrub.Finding, error) {
	began := time.Now()
	f, err := s.ask(ctx, m)
	if kind.Is(err, kind.Full) { // the message is too large for it
		f, err = scrub.Finding{Scanner: s.name, Partial: true}, nil
	}
	g.m.scanSeconds.WithLabelValues(s.name).Observe(time.Since(began).Seconds())
	g.m.scans.WithLabelValues(s.name, found(f, err)).Inc()
	if err != nil && ctx.Err() != nil {
		return f, err // the client has gone; that says nothing of the scanner
	}
	if err != nil {
		g.deps.Log.Warn("message not scanned", "scanner", s.name, "trace", m.Trace, "err", err)
	}
	if changed, down := s.ended(err); changed && down {
		g.deps.Events.Emit(evScanner, "Scanner %s does not answer: %v.", s.name, err)
	} else if changed {
		g.deps.Events.Emit(evScanner, "Scanner %s answers again.", s.name)
	}
	if len(f.Remove) > 0 {
		s.edits.Do(func() {
			g.deps.Log.Warn("a scanner asks to change or remove header fields, which is not done; it may add some", "scanner", s.name, "trace", m.Trace, "field", f.Remove[0].Name)
		})
	}
	return f, err
}

func found(f scrub.Finding, err error) string {
	switch {
	case err != nil:
		return "error"
	case f.Virus != "":
		return "malware"
	case f.Spam, f.Action != mail.ActionPass:
		return "spam"
	case f.Partial:
		return "partial"
	}
	return "clean"
}

// scan asks the scanners: for malware always, for spam where a stranger sends.
func (c *content) scan(ctx context.Context) mail.Verdict {
	m := scrub.Mail{Trace: c.s.Trace, Peer: *c.p, Envelope: c.s.Envelope, Body: c.s.Body}
	var wg sync.WaitGroup
	var spam, malware scrub.Finding
	var spamErr, malwareErr error
	if s := c.g.malware; s != nil {
		wg.Go(func() { malware, malwareErr = c.g.scanWith(ctx, s, m) })
	}
	askSpam := c.g.spam != nil && stranger(c.p) && !c.friend
	if askSpam {
		wg.Go(func() { spam, spamErr = c.g.scanWith(ctx, c.g.spam, m) })
	}
	wg.Wait()
	set := c.g.deps.Settings.Group()
	if v := c.judgeMalware(malware, malwareErr, set.MalwareScanFail); v.Action != mail.ActionPass || !askSpam {
		return v
	}
	return c.judgeSpam(spam, spamErr, set.SpamScanFail)
}

const failClosed = "closed"

func (c *content) unscanned(check, fail string, err error) mail.Verdict {
	v := pass()
	if fail == failClosed {
		v = later("4.3.0", "Content cannot be checked now, try again later", err.Error())
	}
	return c.g.said(check, v)
}

func (c *content) judgeMalware(f scrub.Finding, err error, fail string) mail.Verdict {
	switch {
	case err != nil:
		return c.unscanned("malware", fail, err)
	case f.Virus != "":
		c.g.deps.Events.Emit(evMalware, "Message %s from %s holds malware: %s.", c.s.Trace, origin(c.p), f.Virus)
		if together(c.policies, func(p settings.Policy) string { return p.MalwareAction }) == actionReject {
			return c.g.said("malware", refuse("5.7.1", "Message holds malware", f.Virus))
		}
		c.hold("malware", "malware: "+f.Virus)
	case f.Partial:
		c.hold("malware", "malware scan: the scanner could not look at all of it")
	}
	return pass()
}

// origin names who sent, for events.
func origin(p *mail.Peer) string {
	switch {
	case p.Account != "":
		return "account " + p.Account
	case p.Connector != "":
		return "connector " + p.Connector + " of " + string(p.Organization)
	}
	return network(p.Remote)
}

func (c *content) judgeSpam(f scrub.Finding, err error, fail string) mail.Verdict {
	if err != nil {
		return c.unscanned("spam", fail, err)
	}
	why := fmt.Sprintf("spam: score %.1f of %.1f", f.Score, f.Required)
	switch f.Action {
	case mail.ActionDefer:
		return c.g.said("spam", later("4.7.1", text(f.Text, "Try again later"), why))
	case mail.ActionDiscard:
		return c.g.said("spam", mail.Verdict{Action: mail.ActionDiscard, Why: why})
	case mail.ActionQuarantine:
		c.hold("spam", why)
	}
	if f.Action != mail.ActionQuarantine {
		if v := c.judgeJunk("spam", f, why); v.Action != mail.ActionPass {
			return v
		}
	}
	c.mark(f)
	return pass()
}

// judgeJunk does with spam what the organizations ask for.
func (c *content) judgeJunk(check string, f scrub.Finding, why string) mail.Verdict {
	if f.Spam {
		switch together(c.policies, func(p settings.Policy) string { return p.SpamAction }) {
		case actionReject:
			return c.g.said(check, refuse("5.7.1", text(f.Text, "Message looks like spam"), why))
		case actionQuarantine:
			c.hold(check, why)
		}
	}
	return pass()
}

func text(said, otherwise string) string {
	if said = scrub.Line(said, 200); said != "" {
		return said
	}
	return otherwise
}

// mark writes down what the scanner said.
func (c *content) mark(f scrub.Finding) {
	yes := "No"
	if f.Spam {
		yes = "Yes"
		c.junk()
	}
	c.field("X-Spam-Status", fmt.Sprintf("%s, score=%.1f required=%.1f", yes, f.Score, f.Required))
	c.add(f)
}

// junk marks the message as spam, once.
func (c *content) junk() {
	if c.spam {
		return
	}
	c.spam, c.known = true, ""
	c.field("X-Spam-Flag", "YES")
	if c.s.Priority < mail.PriorityLow {
		c.s.Priority = mail.PriorityLow
	}
}

// add puts fields in front that a scanner wants there, but none that is ours, or
// the author's, to say.
func (c *content) add(f scrub.Finding) {
	for _, h := range f.Add[:min(len(f.Add), maxAdded)] {
		if len(h.Value) > maxAddedValue || len(c.prepend)+len(h.Value) > maxPrepend {
			continue
		}
		switch strings.ToLower(h.Name) {
		case "x-spam-flag", "authentication-results", "received", "return-path", "from", "sender":
			continue
		case "x-spam-status":
			if c.g.spam != nil {
				continue
			}
		}
		c.field(h.Name, h.Value)
	}
}

// field puts a field in front. One that cannot be written is left out.
func (c *content) field(name, value string) {
	if b, err := message.Field(name, value); err == nil {
		c.prepend = append(c.prepend, b...)
	}
}
