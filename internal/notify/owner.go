package notify

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// failuresInARow is after how many messages that did not go a server gives the
// channel to another.
const failuresInARow = 3

// serve does what is to be done for one channel: claims it, or tells the next.
func (t *turner) serve(ctx context.Context, s snapshot, c Channel, now time.Time) {
	n := t.n
	after := time.Time{}
	n.mu.Lock()
	if tr := n.tries[c.Name]; tr != nil {
		after = tr.next
	}
	n.mu.Unlock()
	if t.busy[c.Name] || now.Before(t.wake[c.Name]) || now.Before(after) {
		return
	}
	st := s.states[c.Name]
	m, due, wait := next(c, st.value, alertsOf(s), rulesOf(s), n.pace(), now)
	if st.value.Owner != n.me {
		t.claim(ctx, c.Name, st, due && m.Reason != Test, now)
		t.wake[c.Name] = now.Add(n.cfg.Lost / 3)
		return
	}
	delete(t.gone, c.Name)
	if !due {
		// Quiet hours begin and end by the clock.
		t.wake[c.Name] = now.Add(min(wait, time.Minute))
		return
	}
	m.Server = n.me
	t.tell(ctx, c, st, m)
}

func (n *Notifier) pace() pace { return pace{hold: n.cfg.Hold, gap: n.cfg.Gap, test: n.cfg.Test} }

func alertsOf(s snapshot) []Alert {
	out := make([]Alert, 0, len(s.alerts))
	for _, h := range s.alerts {
		out = append(out, h.value)
	}
	return out
}

// claim takes a channel that nobody owns, whose owner is gone, or whose owner lets
// messages wait though it seems to live. The first server that has not just
// failed with it begins; each further one waits longer.
func (t *turner) claim(ctx context.Context, channel string, h held[state], waits bool, now time.Time) {
	n, st := t.n, h.value
	fit := fitFor(st, n.d.Mesh.Members(), n.cfg.Away, now)
	at := slices.Index(fit, n.me)
	patience := time.Duration(max(at, 0)) * n.cfg.Lost
	switch {
	case at < 0:
		delete(t.gone, channel)
		return
	case st.Owner == "":
	case !slices.Contains(fit, st.Owner):
		patience += n.cfg.Lost
	case waits:
		patience += 4 * n.cfg.Lost
	default:
		delete(t.gone, channel)
		return
	}
	since, ok := t.gone[channel]
	if !ok {
		since = now
		t.gone[channel] = now
	}
	if now.Sub(since) < patience {
		return
	}
	former := st.Owner
	st.Owner, st.Left, st.Since = n.me, "", now
	if st.Tested.IsZero() {
		st.Tested = now
	}
	if err := n.commit(ctx, change{statePrefix + channel, h.revision, st}); err != nil {
		if !kind.Is(err, kind.Conflict) {
			n.d.Log.Warn("channel was not claimed", "channel", channel, "err", err)
		}
		return
	}
	delete(t.gone, channel)
	n.d.Log.Info("this server owns the notification channel", "channel", channel, "former", former)
}

// release gives the channels of a server that stops in order to the others, so
// that they need not wait for its loss to be noticed.
func (t *turner) release(ctx context.Context) {
	n := t.n
	others := slices.ContainsFunc(n.d.Mesh.Members(), func(m Member) bool { return m.Alive && m.Name != n.me })
	if !others || !n.d.Rows.Quorum() {
		return
	}
	var changes []change
	for name, h := range t.reader.read().states {
		st := h.value
		if st.Owner != n.me {
			continue
		}
		st.Owner, st.Left = "", n.me
		changes = append(changes, change{statePrefix + name, h.revision, st})
	}
	if len(changes) == 0 {
		return
	}
	if err := n.commit(context.WithoutCancel(ctx), changes...); err != nil {
		n.d.Log.Info("channels were not handed over", "err", err)
	}
}

// fitFor lists the servers that may own a channel, by name: those that live and
// have not just failed to reach it.
func fitFor(st state, members []Member, away time.Duration, now time.Time) []org.ServerName {
	var out []org.ServerName
	for _, m := range members {
		failed, ok := st.Failed[m.Name]
		if m.Alive && (!ok || now.Sub(failed) >= away) {
			out = append(out, m.Name)
		}
	}
	// Who left it is asked last.
	slices.SortFunc(out, func(a, b org.ServerName) int {
		switch {
		case a == b:
			return 0
		case a == st.Left:
			return 1
		case b == st.Left:
			return -1
		}
		return cmp.Compare(a, b)
	})
	return out
}

// tell sends a message beside the loop, one at a time for each channel, and
// writes what became of it.
func (t *turner) tell(ctx context.Context, c Channel, h held[state], m Message) {
	n := t.n
	n.mu.Lock()
	n.busy[c.Name] = true
	n.mu.Unlock()
	t.wg.Go(func() {
		err := n.sendOnce(ctx, c, m)
		if ctx.Err() == nil {
			n.record(ctx, c, h, m, err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.busy, c.Name)
	})
}

// sendOnce opens the secret and sends, within the channel's time.
func (n *Notifier) sendOnce(ctx context.Context, c Channel, m Message) error {
	var secret []byte
	if len(c.Secret) > 0 {
		var err error
		if secret, err = n.d.Secrets.OpenSecret(purpose(c.Name), c.Secret); err != nil {
			return kind.WithHint(kind.Errorf(kind.Of(err), "open the secret of channel %s: %w", c.Name, err), "postern notify channel set "+c.Name+" --secret-file FILE")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	err := n.send(ctx, c, string(secret), m)
	result := "sent"
	if err != nil {
		result = "failed"
	}
	n.figs.sent.WithLabelValues(c.Name, result).Inc()
	return err
}

// record writes what became of a message.
func (n *Notifier) record(ctx context.Context, c Channel, h held[state], m Message, failed error) {
	now := time.Now().UTC()
	if failed == nil {
		n.succeeded(ctx, c, h, m, now)
		return
	}
	n.d.Log.Warn("notification was not sent", "channel", c.Name, "reason", m.Reason, "err", failed)
	n.mu.Lock()
	tr := cmp.Or(n.tries[c.Name], &trial{})
	n.tries[c.Name] = tr
	tr.failures++
	tr.next = now.Add(n.cfg.Retry << (tr.failures - 1))
	giveUp := tr.failures >= failuresInARow
	if giveUp {
		delete(n.tries, c.Name)
	}
	n.mu.Unlock()
	if !giveUp {
		return
	}
	text := clip(failed.Error(), maxSentence)
	if m.NoQuorum {
		n.mu.Lock()
		n.tries[c.Name] = &trial{next: now.Add(n.cfg.Away / 4)}
		n.mu.Unlock()
		return
	}
	n.d.Events.Emit(evFailing, "channel %s cannot be reached from %s: %s", c.Name, n.me, text)
	n.Raise(Report{Code: codeFailing, Name: evFailing.Name, Level: LevelWarn, Object: c.Name, Lasting: true, Action: evFailing.Action,
		Sentence: "channel " + c.Name + " cannot be reached from " + string(n.me) + ": " + text})
	err := n.rewrite(ctx, c.Name, h, func(st state) state {
		st.Failed = maps.Clone(st.Failed)
		if st.Failed == nil {
			st.Failed = map[org.ServerName]time.Time{}
		}
		st.Failed[n.me], st.Error = now, text
		if st.Owner == n.me {
			st.Owner = ""
		}
		return st
	})
	if err != nil {
		n.d.Log.Warn("channel was not given up", "channel", c.Name, "err", err)
	}
}

func (n *Notifier) succeeded(ctx context.Context, c Channel, h held[state], m Message, now time.Time) {
	n.mu.Lock()
	delete(n.tries, c.Name)
	n.mu.Unlock()
	if m.NoQuorum {
		n.mu.Lock()
		n.told[c.Name] = h.value.after(m, now)
		n.mu.Unlock()
		return
	}
	if h.value.Error != "" {
		n.d.Events.Emit(evWorks, "channel %s can be reached from %s", c.Name, n.me)
		n.Clear(codeFailing, c.Name, "the channel can be reached from "+string(n.me))
	}
	known := map[string]bool{}
	for key := range n.d.Rows.Prefix(alertPrefix) {
		known[key[len(alertPrefix):]] = true
	}
	err := n.rewrite(ctx, c.Name, h, func(st state) state {
		return st.after(m, now).tidy(func(id string) bool { return known[id] }, now)
	})
	if err != nil {
		// Whoever tells next does not know of it: a double. Without quorum it is
		// this server, and then it does.
		n.d.Log.Warn("what was told is not written", "channel", c.Name, "err", err)
		n.mu.Lock()
		n.told[c.Name] = h.value.after(m, now)
		n.mu.Unlock()
	}
}

// rewrite changes the state of a channel, also if others changed it meanwhile.
func (n *Notifier) rewrite(ctx context.Context, channel string, h held[state], f func(state) state) error {
	for range 5 {
		err := n.commit(ctx, change{statePrefix + channel, h.revision, f(h.value)})
		if !kind.Is(err, kind.Conflict) {
			return err
		}
		var ok bool
		if h, ok = newReader(n.d.Rows).read().states[channel]; !ok {
			return nil // the channel was removed
		}
	}
	return errors.New("the row changes all the time")
}
