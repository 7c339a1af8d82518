package node

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
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
