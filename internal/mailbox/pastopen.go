package mailbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Past is a database as it was at a moment, on whichever server can show it.
// It is for one goroutine; Close ends it.
type Past struct {
	k      *Keeper
	db     org.DatabaseName
	id     string
	Server org.ServerName
	At     time.Time

	let  context.CancelFunc // ends keep; nil while it is not ready
	kept chan struct{}      // closed when keep is gone
}

// OpenPast shows a database as it was at t, from the copy that has the least to
// replay for that, or from the one on server from where that is given. It waits
// until the log is replayed; progress is told how much of it, in bytes.
// Errors: NotFound where no copy goes back so far.
func (k *Keeper) OpenPast(ctx context.Context, db org.DatabaseName, t time.Time, from org.ServerName, progress func(done, total int64)) (*Past, error) {
	best, end, err := k.pastSource(ctx, db, t, from)
	if err != nil {
		return nil, err
	}
	p := &Past{k: k, db: db, Server: best, At: t}
	a, err := p.ask(ctx, pastRequest{Do: "open", At: t.UnixNano(), End: end})
	if err != nil {
		return nil, err
	}
	p.id = a.ID
	for {
		a, err := p.ask(ctx, pastRequest{Do: "state"})
		if err != nil {
			p.Close()
			return nil, err
		}
		if progress != nil {
			progress(a.Done, a.Total)
		}
		if a.Ready {
			p.keep(ctx)
			return p, nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			p.Close()
			return nil, ctx.Err()
		}
	}
}

// keep asks for the past now and then until it is closed or ctx ends: one that
// nobody asks ends by itself.
func (p *Past) keep(ctx context.Context) {
	ctx, p.let = context.WithCancel(ctx)
	p.kept = make(chan struct{})
	go func() {
		defer close(p.kept)
		for sleep(ctx, pastIdle/5) {
			_, _ = p.ask(ctx, pastRequest{Do: "state"}) // whoever uses it hears that it is gone
		}
	}()
}

// KeepsPast are the servers whose copies of a database will be able to show what
// is there now: those with a checkpoint, or a replay lag.
func (k *Keeper) KeepsPast(ctx context.Context, db org.DatabaseName) (out []org.ServerName) {
	def, _ := k.group.View().Database(db)
	for _, cp := range def.Copies {
		if !k.heard(cp.Server) {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		a, err := callPeer[pastRequest, pastAnswer](ask, k, cp.Server, "Past", db, pastRequest{Do: "reach", At: time.Now().UnixNano()})
		cancel()
		if err == nil && a.Keeps {
			out = append(out, cp.Server)
		}
	}
	return out
}

// Limits of the search for a copy that shows a moment.
const (
	pastAsk  = 10 * time.Second
	pastWait = 5 * time.Second // for a copy to hear that what it has is agreed
)

// pastEnd is where the log of the active copy ends now; keepsNothing where that
// cannot be had, so that only a record made later shows that a copy goes on to a
// moment.
func (k *Keeper) pastEnd(ctx context.Context, db org.DatabaseName) org.LSN {
	if m, ok := k.group.View().Mount(db); !ok || m.Active == "" {
		return keepsNothing
	}
	ctx, cancel := context.WithTimeout(ctx, pastAsk)
	defer cancel()
	a, err := send(ctx, k, opPast(), org.MailboxRef{Database: db}, pastRequest{Do: "end"})
	if err != nil {
		return keepsNothing
	}
	return a.End
}

// pastSource is the server whose copy has the least to replay to show t, and where
// the log of the active copy ended.
func (k *Keeper) pastSource(ctx context.Context, db org.DatabaseName, t time.Time, from org.ServerName) (org.ServerName, org.LSN, error) {
	end := k.pastEnd(ctx, db)
	for begun := time.Now(); ; {
		best, behind, err := k.pastAmong(ctx, db, t, from, end)
		if err == nil || !behind || end == keepsNothing || time.Since(begun) > pastWait || !sleep(ctx, 100*time.Millisecond) {
			return best, end, err
		}
	}
}

// pastAmong asks all copies once; behind tells that one lacks nothing but log.
func (k *Keeper) pastAmong(ctx context.Context, db org.DatabaseName, t time.Time, from org.ServerName, end org.LSN) (best org.ServerName, behind bool, err error) {
	def, ok := k.group.View().Database(db)
	if !ok {
		return "", false, k.noDatabase(db)
	}
	base := int64(0)
	var reach []string
	for _, cp := range def.Copies {
		if from != "" && cp.Server != from {
			continue
		}
		if !k.heard(cp.Server) {
			reach = append(reach, fmt.Sprintf("%s is not heard", cp.Server))
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, pastAsk)
		a, err := callPeer[pastRequest, pastAnswer](rctx, k, cp.Server, "Past", db, pastRequest{Do: "reach", At: t.UnixNano(), End: end})
		cancel()
		switch {
		case err != nil:
			reach = append(reach, fmt.Sprintf("%s: %v", cp.Server, err))
		case a.Base > base:
			best, base = cp.Server, a.Base
		case a.Base == 0 && a.Until != 0:
			behind = true
			reach = append(reach, fmt.Sprintf("the log of the one on %s ends at %s", cp.Server, time.Unix(0, a.Until).UTC().Format(time.RFC3339Nano)))
		case a.Base == 0 && a.Oldest == 0:
			reach = append(reach, fmt.Sprintf("the one on %s does not know how far", cp.Server))
		case a.Base == 0:
			reach = append(reach, fmt.Sprintf("the one on %s goes back to %s", cp.Server, time.Unix(0, a.Oldest).UTC().Format(time.RFC3339Nano)))
		}
	}
	if best != "" {
		return best, false, nil
	}
	if len(reach) == 0 {
		return "", behind, kind.WithHint(kind.Errorf(kind.NotFound, "no copy of %s can be asked", db), "postern copy status "+string(db))
	}
	return "", behind, kind.WithHint(kind.Errorf(kind.NotFound, "no copy of %s can show what was there at %s: %s", db, t.UTC().Format(time.RFC3339), strings.Join(reach, ", ")),
		"take a later moment; a copy with a replay lag goes further back, or one with checkpoints: postern copy set "+string(db)+" SERVER --replay-lag 7d --beyond-hold-time")
}

// ask asks one question, and waits for the answer as long as for any call.
func (p *Past) ask(ctx context.Context, q pastRequest) (pastAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	q.ID = p.id
	return callPeer[pastRequest, pastAnswer](ctx, p.k, p.Server, "Past", p.db, q)
}

// Close ends it. A server that cannot be told ends it by itself after a while.
func (p *Past) Close() {
	if p.let != nil {
		p.let()
		<-p.kept
	}
	ctx, cancel := context.WithTimeout(p.k.life(), 5*time.Second)
	defer cancel()
	_, _ = p.ask(ctx, pastRequest{Do: "close"}) // else it ends by itself
}

// Mailboxes are those that were there.
func (p *Past) Mailboxes(ctx context.Context) ([]org.MailboxID, error) {
	a, err := p.ask(ctx, pastRequest{Do: "mailboxes"})
	return a.Mailboxes, err
}

// Folders are the folders of a mailbox as they were.
func (p *Past) Folders(ctx context.Context, id org.MailboxID) ([]mail.Folder, error) {
	a, err := p.ask(ctx, pastRequest{Do: "folders", Mailbox: id})
	return a.Folders, err
}

// Messages is a page of a folder as it was.
func (p *Past) Messages(ctx context.Context, id org.MailboxID, q mail.MessagesRequest) (mail.Messages, error) {
	a, err := p.ask(ctx, pastRequest{Do: "messages", Mailbox: id, Messages: &q})
	if err != nil || a.Messages == nil {
		return mail.Messages{}, err
	}
	return *a.Messages, nil
}

// Body is a whole message; NotFound where its bytes were given back before the
// copy was to keep them.
func (p *Past) Body(ctx context.Context, m mail.Message) ([]byte, error) {
	out := make([]byte, 0, m.Size)
	for int64(len(out)) < m.Size {
		a, err := p.ask(ctx, pastRequest{Do: "body", Body: &mail.BodyRequest{Blob: m.Blob, Offset: int64(len(out))}})
		if err != nil {
			return nil, err
		}
		if len(a.Body) == 0 {
			return nil, kind.Errorf(kind.NotFound, "message content %d is shorter than it was", m.Blob)
		}
		out = append(out, a.Body...)
	}
	return out, nil
}
