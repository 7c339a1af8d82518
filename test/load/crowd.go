package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Crowd is all clients of a run.
type Crowd struct {
	Target   *Target
	History  *History
	Senders  int
	Sessions int
	Watchers int
	Sizes    Sizes
	Pause    time.Duration // of sessions, between two steps
	// SendPause is that of senders, between two messages; 0 for full speed.
	SendPause time.Duration
	// Submitters write to Domains outside, and to Groups, with SubmitPause
	// between two messages.
	Submitters  int
	Domains     []string
	Groups      []Group
	SubmitPause time.Duration
	// Settle, when set, waits until all mail is where it belongs; watchers stay
	// until then.
	Settle func()
}

// Start puts the load on; stop takes it off. Watchers stay a moment longer
// than the rest, so that they can hear of the last message.
func (c Crowd) Start(ctx context.Context) (stop func()) {
	load, endLoad := context.WithCancel(ctx)
	watch, endWatch := context.WithCancel(ctx)
	var loading, watching sync.WaitGroup
	for i := range c.Watchers {
		u := c.Target.Users[i%len(c.Target.Users)]
		w := &Watcher{Name: fmt.Sprintf("watch%02d", i), Number: i, User: u, Target: c.Target, History: c.History}
		watching.Go(func() { w.Run(watch) })
	}
	for i := range c.Senders {
		s := &Sender{Name: fmt.Sprintf("smtp%02d", i), Number: i, Target: c.Target, History: c.History, Sizes: c.Sizes, Pause: c.SendPause, Groups: c.Groups}
		loading.Go(func() { s.Run(load) })
	}
	for i := range c.Submitters {
		u := c.Target.Users[i%len(c.Target.Users)]
		s := &Submitter{Name: fmt.Sprintf("subm%02d", i), Number: i, User: u, Target: c.Target, History: c.History, Sizes: c.Sizes, Pause: c.SubmitPause,
			Domains: c.Domains, Groups: c.Groups}
		loading.Go(func() { s.Run(load) })
	}
	for i := range c.Sessions {
		u := c.Target.Users[i%len(c.Target.Users)]
		s := &Session{Name: fmt.Sprintf("imap%02d", i), Number: i, User: u, Target: c.Target, History: c.History, Pause: c.Pause}
		loading.Go(func() { s.Run(load) })
	}
	return func() {
		endLoad()
		loading.Wait()
		if c.Settle != nil {
			c.Settle()
		}
		pause(ctx, 5*time.Second)
		endWatch()
		watching.Wait()
	}
}
