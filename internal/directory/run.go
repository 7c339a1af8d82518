package directory

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

const (
	// settle is how long a change is left to the server that made it before
	// others help.
	settle = 10 * time.Second
	// setupWait bounds one call to a database, so that one that is away does
	// not hold up the others.
	setupWait = 10 * time.Second
	// perTurn bounds the databases' calls of one turn.
	perTurn = 500
)

// Run finishes what was left over: it sets up mailboxes their database has
// not heard of and deletes removed ones after the retention time. Every server may
// run it; each step can be repeated and is recorded by compare and swap.
func (d *Directory) Run(ctx context.Context) error {
	tick := time.NewTicker(d.opt.ReconcileEvery)
	defer tick.Stop()
	for {
		d.reconcile(ctx, time.Now())
		d.verified.sweep(time.Now())
		d.rows.forget(d.state.View())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reconcile does one turn over all recipients.
func (d *Directory) reconcile(ctx context.Context, at time.Time) {
	if d.opt.Store == nil {
		return
	}
	away := map[org.DatabaseName]bool{} // did not answer in this turn
	done := 0
	for key, it := range d.state.View().Prefix("recipients/") {
		r := d.rows.get(key, it)
		if r == nil || !r.IsMailbox() || away[r.Database] {
			continue
		}
		if done >= perTurn || ctx.Err() != nil {
			return
		}
		switch {
		case d.expired(r, at):
			done++
			if err := d.purge(ctx, r.Organization, r.ID); err != nil {
				away[r.Database] = true
				d.opt.Events.Emit(evPurgeWaits, "removed mailbox %s waits for database %s: %v", r.label(), r.Database, err)
			}
		case !r.Provisioned && r.Deleted == nil && at.Sub(r.Created) > settle:
			done++
			if err := d.provision(ctx, r.Organization, r.ID); err != nil {
				away[r.Database] = true
				d.opt.Events.Emit(evSetupWaits, "mailbox %s waits for database %s: %v", r.label(), r.Database, err)
			}
		}
	}
}

// provision tells the database of a mailbox and its limits, and records that
// it knows them.
func (d *Directory) provision(ctx context.Context, o org.OrganizationID, id org.MailboxID) error {
	if d.opt.Store == nil {
		return nil
	}
	for range changeTries {
		r, rev, ok := d.recipient(d.state.View(), o, id)
		if !ok || r.Provisioned || r.Purging {
			return nil
		}
		if err := d.setup(ctx, r, false); err != nil {
			return err
		}
		r = r.clone()
		r.Provisioned = true
		var t txn
		// The row as it was when its limits were sent: if it changed since,
		// they are sent again.
		t.put(recipientKey(o, id), rev, r)
		_, err := d.state.Commit(ctx, cluster.Txn(t))
		if !kind.Is(err, kind.Conflict) {
			return err
		}
		if err := d.state.Sync(ctx); err != nil {
			return err
		}
	}
	return kind.Errorf(kind.Conflict, "set up mailbox: its row keeps changing")
}

// purge deletes a removed mailbox for good: the mark first, from which on it cannot
// be restored, then the content, then the rows.
func (d *Directory) purge(ctx context.Context, o org.OrganizationID, id org.MailboxID) error {
	if d.opt.Store == nil {
		return kind.Errorf(kind.Busy, "purge mailbox: no store here")
	}
	for range changeTries {
		v := d.state.View()
		r, rev, ok := d.recipient(v, o, id)
		if !ok || r.Deleted == nil {
			return nil
		}
		var t txn
		if !r.Purging {
			r = r.clone()
			r.Purging = true
			t.put(recipientKey(o, id), rev, r)
		} else {
			if err := d.setup(ctx, r, true); err != nil && !kind.Is(err, kind.NotFound) {
				return err
			}
			t = d.removeTxn(v, r, rev)
		}
		_, err := d.state.Commit(ctx, cluster.Txn(t))
		switch {
		case err == nil && r.Purging && len(t.Then) > 0 && t.Then[0].Delete:
			d.opt.Events.Emit(evPurged, "mailbox %s of database %s was deleted for good", r.label(), r.Database)
			return nil
		case err != nil && !kind.Is(err, kind.Conflict):
			return err
		case err != nil:
			if err := d.state.Sync(ctx); err != nil {
				return err
			}
		}
	}
	return kind.Errorf(kind.Conflict, "purge mailbox: its row keeps changing")
}

func (d *Directory) setup(ctx context.Context, r *Recipient, remove bool) error {
	ctx, cancel := context.WithTimeout(ctx, setupWait)
	defer cancel()
	return d.opt.Store.Setup(ctx, r.Ref(), mail.MailboxSetup{
		Organization: r.Organization, QuotaBytes: r.QuotaBytes, QuotaMessages: r.QuotaMessages, Remove: remove,
	})
}
