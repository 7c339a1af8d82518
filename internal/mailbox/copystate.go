package mailbox

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// setState records the copy's state for reports. A state that cannot follow
// the present one (org.CopyMay) is not taken.
func (c *dbCopy) setState(s org.CopyState, reason string) {
	c.mu.Lock()
	old := c.state
	if !org.CopyMay(old, s) {
		c.mu.Unlock()
		c.k.impossible.Add(1)
		c.k.deps.Events.Emit(evBadState, "%s on %s: %s cannot become %s (%s)", c.name, c.k.me, old, s, reason)
		return
	}
	c.state, c.reason = s, reason
	if old != s {
		c.since = time.Now()
	}
	switch s {
	case org.CopyFailed:
		if c.failedSince.IsZero() {
			c.failedSince = c.since
		}
		c.since = c.failedSince
	case org.CopyInitializing:
	default:
		c.failedSince = time.Time{}
	}
	if s != org.CopyFailed && s != org.CopyFailedAndSuspended {
		c.cause = ""
	}
	c.mu.Unlock()
	if old == s {
		return
	}
	c.log.Info("copy state", "from", old, "to", s, "reason", reason)
	switch s {
	case org.CopyHealthy:
		c.k.deps.Events.Emit(evCopyHealthy, "%s on %s is healthy", c.name, c.k.me)
	case org.CopyFailed, org.CopyFailedAndSuspended:
		c.k.deps.Events.Emit(evCopyFailed, "%s on %s: %s", c.name, c.k.me, reason)
	}
	c.k.reportSoon()
}

// begin shows the first state of a role. What it cannot follow directly it
// follows by way of Initializing.
func (c *dbCopy) begin(s org.CopyState, reason string) {
	c.mu.Lock()
	direct := org.CopyMay(c.state, s)
	c.mu.Unlock()
	if !direct {
		c.setState(org.CopyInitializing, reason)
	}
	c.setState(s, reason)
}

// fail shows that the copy failed, with the class of the cause.
func (c *dbCopy) fail(s org.CopyState, err error) {
	class := classOf(err)
	c.begin(s, err.Error())
	c.mu.Lock()
	c.cause = class
	c.mu.Unlock()
}

// status is what the copy reports.
func (c *dbCopy) status() org.CopyStatus {
	c.mu.Lock()
	s := org.CopyStatus{
		Database: c.name, Server: c.k.me, State: c.state, Reason: c.reason,
		Term: c.maxTerm, Committed: c.commit, InSync: c.mount.IsInSync(c.k.me),
		Repairs: c.repairs.Load(), VolumeFull: c.vol.full(), Generated: c.heardEnd,
		LastTime: c.lastTime.Load(), Volume: c.vol.Name, Cause: c.cause, Since: c.since.UnixNano(), SeedCount: c.seedCount,
		ContentIndex: org.IndexHealthy,
	}
	crawl := c.crawlTo
	if c.lead == nil {
		s.Network = c.network
	}
	if c.seed.active {
		s.SeedTotal, s.SeedDone, s.SeedSource, s.RateIn = c.seed.total, c.seed.done, c.seed.source, c.seed.rate(time.Now())
	}
	mine, _ := c.def.Copy(c.k.me)
	c.mu.Unlock()
	if _, leave, ok := c.gate.enter(context.Background()); ok {
		defer leave()
		s.Replayed = c.index().Applied().LSN
		if s.Replayed < crawl {
			s.ContentIndex = org.IndexCrawling
		}
		if d := c.jn.Stalled(); d >= diskPatience && !c.vol.full() {
			// Whoever decides who can store must not count on this copy. Its
			// log is not asked any more: that may wait for the disk too.
			s.State, s.Reason = org.CopyFailed, fmt.Sprintf("the disk has not finished a write for %s", d.Round(time.Second))
			s.Cause, s.Since = org.CauseHung, time.Now().Add(-d).UnixNano()
			s.Copied = s.Replayed
		} else {
			s.Copied, s.DiskUsed = c.jn.End().LSN, c.jn.Used()
		}
	}
	if verr := c.vol.failure(); verr != nil && classOf(verr) == org.CauseHung && s.State != org.CopyFailedAndSuspended {
		s.State, s.Reason, s.Cause, s.Since = org.CopyFailed, verr.Error(), org.CauseHung, c.vol.status().Since.UnixNano()
	}
	if s.State == org.CopyFailed && mine.SuspendedBy != "" {
		s.State = org.CopyFailedAndSuspended // what hangs cannot come into that state
	}
	s.Generated = max(s.Generated, s.Copied)
	c.lagStatus(&s)
	if s.ReplayLag > 0 {
		s.ContentIndex = org.IndexHealthy // it is behind on purpose
	}
	return s
}
