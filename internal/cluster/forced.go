package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Activation is a forced activation: the servers that are kept go on without
// those that are given up, with the agreed state of the one it is carried out at.
type Activation struct {
	Site   org.SiteName     `json:"site"`
	GiveUp []org.ServerName `json:"give_up"`
	By     string           `json:"by"`
	Why    string           `json:"why"`
}

// Activate makes this voting server the only vote of a new generation of the
// group, which keeps all rows; the other servers that are kept join again by
// themselves, and vote as before. Those that are given up are refused from then
// on. Whoever calls it has made sure that no majority can answer (active.Sites).
//
// It returns when the agreed state answers again. Cut short, it goes on at the
// next start. The error is Invalid at a server that cannot do it, Conflict where
// the agreed state answers.
func (c *Cluster) Activate(ctx context.Context, a Activation) error {
	switch {
	case c.external():
		return kind.Errorf(kind.Invalid, "activate: the agreed state is in an etcd of your own; restore its quorum there")
	case !c.Voting():
		return kind.WithHint(kind.Errorf(kind.Invalid, "activate: this server does not vote and keeps no agreed state of its own"), "run it at a voting server (postern server list)")
	case c.Quorum():
		return kind.Errorf(kind.Conflict, "activate: the agreed state answers; nothing has to be forced")
	case slices.Contains(a.GiveUp, c.self.Name):
		return kind.Errorf(kind.Invalid, "activate: %s cannot give itself up", c.self.Name)
	}
	want := generationOf(c.View()).Generation + 1
	if err := writeFile(filepath.Join(c.cfg.Dir, forceFile), mustJSON(a)); err != nil {
		return &kind.Error{Kind: kind.Internal, Text: "activate", Err: err}
	}
	c.events.Emit(evForced, "site %s is activated by force by %s: generation %d, given up: %v", a.Site, a.By, want, a.GiveUp)
	c.anew()
	for {
		changed := c.Changed()
		if c.Quorum() && generationOf(c.View()).Generation >= want {
			return c.Sync(ctx)
		}
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return kind.WithHint(kind.Errorf(kind.Busy, "activate: the agreed state does not answer yet; it goes on by itself"), "postern cluster status")
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// readForce reads what a forced start is to do; nil where none was ordered.
func readForce(path string) (*Activation, error) {
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := &Activation{}
	if bytes.Equal(bytes.TrimSpace(b), []byte("1")) { // ForceNew
		return a, nil
	}
	if err := json.Unmarshal(b, a); err != nil || a.Site == "" {
		return nil, kind.Errorf(kind.Corrupt, "read %s: it does not say what to force", path)
	}
	return a, nil
}

// forceGroup writes the rows of the new generation, in one transaction.
func (c *Cluster) forceGroup(ctx context.Context, cl *clientv3.Client, a Activation) error {
	rows := map[string]Item{}
	for key, opts := range map[string][]clientv3.OpOption{dirServers: {clientv3.WithPrefix()}, org.GenerationKey: nil} {
		resp, err := cl.Get(ctx, prefix+key, opts...)
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			rows[string(kv.Key[len(prefix):])] = Item{Value: kv.Value, Revision: kv.ModRevision}
		}
	}
	v := NewView(0, rows)
	var ops []clientv3.Op
	for _, o := range forcedOps(v, c.self.Name, a, time.Now().UTC()) {
		if o.Delete {
			ops = append(ops, clientv3.OpDelete(prefix+o.Key))
		} else {
			ops = append(ops, clientv3.OpPut(prefix+o.Key, string(o.Value)))
		}
	}
	_, err := cl.Txn(ctx).Then(ops...).Commit()
	return err
}

// forcedOps are the rows of the generation that follows v. It is pure.
func forcedOps(v *View, self org.ServerName, a Activation, now time.Time) []Op {
	g := generationOf(v)
	next := org.Generation{Generation: g.Generation + 1, At: now, By: a.By, Why: a.Why, Site: a.Site, GivenUp: map[org.ServerName]string{}}
	kept, lost := map[org.SiteName]bool{}, map[org.SiteName]bool{}
	var ops []Op
	for _, s := range v.Servers() {
		gone := slices.Contains(a.GiveUp, s.Name)
		if gone {
			next.GivenUp[s.Name] = s.Identity
			lost[s.Site] = lost[s.Site] || !s.Witness
			ops = append(ops, tombstone(s), Op{Key: dirLive + string(s.Name), Delete: true})
		} else {
			kept[s.Site] = kept[s.Site] || !s.Witness
			if g.Left(s) { // and did not come back since
				next.GivenUp[s.Name] = s.Identity
			}
		}
		if s.Name != self && s.Voter {
			s.Voter, s.PeerURL = false, ""
			ops = append(ops, Op{Key: dirServers + string(s.Name), Value: mustJSON(s)})
		}
	}
	for name := range lost {
		if lost[name] && !kept[name] && name != "" {
			ops = append(ops, Op{Key: org.SitePrefix + string(name), Value: mustJSON(org.Site{Name: name, State: org.SiteStopped, Since: now, By: a.By,
				Why: "site " + string(a.Site) + " was activated without it"})})
		}
	}
	ops = append(ops, Op{Key: org.SitePrefix + string(a.Site), Value: mustJSON(org.Site{Name: a.Site, State: org.SiteStarted, Since: now, By: a.By, Why: "activated by force"})})
	return append(ops, Op{Key: org.GenerationKey, Value: mustJSON(next)})
}
