package queue

import (
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Times of what runs besides the writer.
const (
	judgeEvery  = time.Second
	tidyEvery   = 30 * time.Second
	scrubEvery  = 24 * time.Hour
	scrubRate   = 7 << 20 // bytes a second
	stalledHigh = 2 * time.Second
)

// Run writes, forgets and scrubs until ctx ends; what was planned is written
// before it returns. A queue that failed goes on answering with its error.
func (q *Queue) Run(ctx context.Context) error {
	if q.running.Swap(true) {
		return kind.Errorf(kind.Invalid, "queue %s ran before", q.o.Dir)
	}
	close(q.begun)
	var wg sync.WaitGroup
	wg.Go(func() { q.write(ctx) })
	wg.Go(func() { every(ctx, judgeEvery, q.judge) })
	wg.Go(func() { every(ctx, tidyEvery, func() { q.tidy(ctx) }) })
	wg.Go(func() { q.scrub(ctx) })
	wg.Wait()
	return nil
}

// Running is closed when Run has begun: from then on the queue takes changes.
func (q *Queue) Running() <-chan struct{} { return q.begun }

// every calls f time after time. What takes long has a loop of its own: when
// there is space again, that is to be seen at once.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) tidy(ctx context.Context) {
	if err := q.Tidy(ctx); err != nil && ctx.Err() == nil {
		q.o.Log.Warn("queue not tidied", "error", err)
	}
}

// judge finds the level anew.
func (q *Queue) judge() {
	was := Level(q.level.Load())
	now := depth(q.open.Load(), q.o.MaxMessages, was)
	free, total, err := q.o.FS.Free(q.path("log"))
	if err != nil {
		q.o.Log.Warn("free space of the queue is not known", "error", err)
	} else {
		now = max(now, watermarks(free, total, q.o.Reserve, was))
	}
	if q.o.MaxSize > 0 {
		now = max(now, watermarks(q.o.MaxSize-q.log.Used(), q.o.MaxSize, 0, was))
	}
	if q.log.Stalled() > stalledHigh {
		now = LevelHigh
	}
	if now != was {
		q.level.Store(int32(now))
		q.o.Events.Emit(EventLevel, "The queue of this server is under %s pressure: %d messages, %d bytes free.", now, q.open.Load(), free)
	}
}

// Level is how hard pressed the queue is, by the space of its volume, the
// number of messages and the answers of its disk; at most a second old.
func (q *Queue) Level() Level { return Level(q.level.Load()) }

// Room tells whether a message can be accepted now: Full where there is no
// space for it, Busy where the disk does not answer, or why the queue failed.
func (q *Queue) Room() error {
	if err := q.Failed(); err != nil {
		return err
	}
	if d := q.log.Stalled(); d > stalledHigh {
		return kind.Errorf(kind.Busy, "the disk of the queue has not answered for %v", d.Round(time.Second))
	}
	if q.Level() == LevelHigh {
		return kind.Errorf(kind.Full, "the queue is full")
	}
	return q.log.Room()
}

// scrub reads the log once a day and tells what is damaged.
func (q *Queue) scrub(ctx context.Context) {
	t := time.NewTicker(scrubEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if err := q.scrubOnce(ctx); err != nil && ctx.Err() == nil {
			q.o.Log.Warn("queue not scrubbed", "error", err)
		}
	}
}

func (q *Queue) scrubOnce(ctx context.Context) error {
	_, err := q.log.Scrub(ctx, scrubRate, q.dead, func(at org.LSN, err error) {
		q.o.Events.Emit(EventDamaged, "The log of the queue is damaged at %#x: %v.", uint64(at), err)
	})
	return err
}

// Stats is what a queue costs and holds.
type Stats struct {
	Open      int64 // own messages that are not finished
	LogBytes  int64
	Syncs     uint64
	HotBytes  int64
	LedgerLag int64 // bytes of log that a crash now would have replayed, at most
	Stalled   time.Duration
}

// Stats tells what the queue costs and holds now.
func (q *Queue) Stats() Stats {
	q.hot.mu.Lock()
	used := q.hot.used
	q.hot.mu.Unlock()
	return Stats{Open: q.open.Load(), LogBytes: q.log.Used(), Syncs: q.log.Syncs(), HotBytes: used,
		LedgerLag: int64(q.log.End().LSN) - q.flushed.Load(), Stalled: q.log.Stalled()}
}
