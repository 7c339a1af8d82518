package node

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// hostLogEvery is the pause between two looks at what the host did.
const hostLogEvery = 2 * time.Second

// hostResponder is the responder of what the host does by itself.
const hostResponder = "Host"

// logHost writes what the host did by itself into the recovery log: it starts
// workers again without asking anybody, and cannot write rows. An end is written
// once: its row is named after it.
func (w *mailWorker) logHost(ctx context.Context) error {
	t := time.NewTicker(hostLogEvery)
	defer t.Stop()
	done := map[string]bool{}
	for {
		s, err := ReadHostState(w.cfg.Dir)
		if err == nil && w.cluster.Quorum() {
			for _, e := range s.Ends {
				r := recoveryOf(w.cluster.Name(), e)
				if !done[r.ID] && w.logEnd(ctx, r) == nil {
					done[r.ID] = true
				}
			}
			if len(done) > 2*maxEnds {
				clear(done) // the rows that are there are found again
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// recoveryOf is the row of an end of a worker.
func recoveryOf(s org.ServerName, e WorkerEnd) org.Recovery {
	return org.Recovery{ID: fmt.Sprintf("%s-%s-%s", e.At.UTC().Format("20060102T150405.000000000"), s, e.Worker), Server: s, Action: "RestartWorker", Target: e.Worker,
		Responder: hostResponder, Begun: e.At, Ended: e.At, Cause: "the " + e.Worker + " worker ended after " + e.Lived, Allowed: true,
		Evidence: []org.RecoveryEvidence{{At: e.At, Item: "Host", Target: e.Worker, Result: "failed", Text: e.How}}, Result: "the host started it again"}
}

func (w *mailWorker) logEnd(ctx context.Context, r org.Recovery) error {
	key := org.RecoveryPrefix + r.ID
	if _, ok := w.cluster.View().Get(key); ok {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.cluster.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}

// rebuildNote bounds how long the rebuild of a door waits for its entry.
const rebuildNote = 2 * time.Second

// logRebuild writes into the recovery log that a door ended by itself, and when it
// was built anew.
func (w *mailWorker) logRebuild(name string) func(error) {
	var open org.Recovery
	return func(cause error) { // by the service's loop alone
		now := time.Now().UTC()
		if cause != nil {
			open = org.Recovery{ID: org.RecoveryID(now, w.cluster.Name(), name+"-door"), Server: w.cluster.Name(), Action: string(health.RestartService), Target: name,
				Responder: "Service", Begun: now, Cause: name + " ended by itself: " + cause.Error(), Allowed: true,
				Evidence: []org.RecoveryEvidence{{At: now, Item: "Service", Target: name, Result: "failed", Text: cause.Error()}}}
		} else {
			open.Ended, open.Result = now, name+" was built anew"
		}
		ctx, cancel := context.WithTimeout(context.Background(), rebuildNote)
		defer cancel()
		if err := w.desk.Record(ctx, open); err != nil {
			w.log.Warn("the rebuild of a door was not written down", "door", name, "err", err)
		}
	}
}
