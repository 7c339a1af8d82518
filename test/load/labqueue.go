package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Queue is the queue of a server, as `queue status` tells.
type Queue struct {
	Server      string `json:"server"`
	Level       string `json:"level"`
	Accepting   bool   `json:"accepting"`
	Unfinished  int    `json:"unfinished"`
	Alone       int    `json:"alone"`
	Reconciling int    `json:"reconciling"`
	LogBytes    int64  `json:"log_bytes"`
	Error       string `json:"error"`
}

// Queues are the queues of all servers.
func (l *Lab) Queues(ctx context.Context) ([]Queue, error) {
	var out []Queue
	if err := l.Command(ctx, &out, "queue", "status"); err != nil {
		return nil, err
	}
	for _, q := range out {
		if q.Error != "" {
			return out, fmt.Errorf("queue of %s: %s", q.Server, q.Error)
		}
	}
	return out, nil
}

// retryEvery is how often what waits for its time is tried at once.
const retryEvery = 3 * time.Second

// Settled waits until all queues are empty and every server knows what became
// of its copies; messages that wait for their next attempt at a destination are
// tried now.
func (l *Lab) Settled(ctx context.Context, patience time.Duration, destinations ...string) error {
	var tried time.Time
	return l.Wait(ctx, patience, func() error {
		list, err := l.Queues(ctx)
		if err != nil {
			return err
		}
		var open []string
		for _, q := range list {
			if q.Unfinished+q.Reconciling > 0 {
				open = append(open, fmt.Sprintf("%s has %d unfinished messages and %d unsettled copies", q.Server, q.Unfinished, q.Reconciling))
			}
		}
		if len(open) == 0 {
			return nil
		}
		if time.Since(tried) > retryEvery {
			for _, d := range destinations {
				if err := l.Command(ctx, nil, "queue", "retry", "--destination", d); err != nil {
					return err
				}
			}
			tried = time.Now()
		}
		return errors.New(strings.Join(open, ", "))
	})
}

// Waiting describes the oldest messages that wait, for a report of what is stuck.
func (l *Lab) Waiting(ctx context.Context, limit int) string {
	b, err := l.run(ctx, "--lab", l.Dir, "queue", "show", "--limit", fmt.Sprint(limit))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// VerifyQueue compares ledgers and reality on all servers; what it compared and
// what differs is in the lines.
func (l *Lab) VerifyQueue(ctx context.Context) (lines []string, err error) {
	b, err := l.run(ctx, "--lab", l.Dir, "--json", "queue", "verify")
	var rows []struct {
		Server  string `json:"server"`
		Trace   string `json:"trace"`
		Address string `json:"address"`
		What    string `json:"what"`
	}
	if jerr := json.Unmarshal(b, &rows); jerr != nil && err == nil {
		return nil, fmt.Errorf("queue verify: %w: %.200s", jerr, b)
	}
	for _, r := range rows {
		lines = append(lines, strings.Join(strings.Fields(r.Server+" "+r.Trace+" "+r.Address+" "+r.What), " "))
	}
	return lines, err
}

// Repeatable tells whether the ledger says that a recipient may have a message
// twice.
func (l *Lab) Repeatable(ctx context.Context) func(s Sent, recipient string) (bool, error) {
	return func(s Sent, recipient string) (bool, error) {
		var rows []struct {
			Recipient string `json:"recipient"`
			Repeat    bool   `json:"repeat_possible"`
		}
		ask := []string{"message", "show", s.Trace}
		if s.Trace == "" { // its 250 was not heard
			ask = []string{"message", "trace", "--message-id", fmt.Sprintf("<%s@load.invalid>", s.ID)}
		}
		if err := l.Command(ctx, &rows, ask...); err != nil {
			return false, err
		}
		for _, r := range rows {
			if r.Repeat && strings.EqualFold(r.Recipient, recipient) {
				return true, nil
			}
		}
		return false, nil
	}
}

// MakeGroups makes n groups of so many of the target's users each, who are
// chosen in turn.
func (l *Lab) MakeGroups(ctx context.Context, t *Target, n, members int) ([]Group, error) {
	_, domain, _ := strings.Cut(t.Users[0].Address, "@")
	var out []Group
	for i := range n {
		g := Group{Address: fmt.Sprintf("group%d@%s", i+1, domain)}
		if err := l.Command(ctx, nil, "group", "create", g.Address); err != nil {
			return nil, err
		}
		for k := range min(members, len(t.Users)) {
			u := t.Users[(i*members+k)%len(t.Users)].Address
			if err := l.Command(ctx, nil, "group", "add-member", g.Address, u); err != nil {
				return nil, err
			}
			g.Members = append(g.Members, u)
		}
		out = append(out, g)
	}
	return out, nil
}
