package cluster

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

type etcdMember = pb.Member

// removedRow marks an identity whose certificate is refused from now on.
type removedRow struct {
	Name org.ServerName `json:"name"`
	At   time.Time      `json:"at"`
}

func tombstone(s org.Server) Op {
	return Op{Key: dirRemoved + s.Identity, Value: mustJSON(removedRow{s.Name, time.Now().UTC()})}
}

// RemoveServer takes a server out of the group: its row, its vote and its
// lease go, and its certificate is refused by all members when they hear of
// it. The last server cannot be removed. Without force, a server that is alive
// or holds copies of databases is not removed.
func (c *Cluster) RemoveServer(ctx context.Context, name org.ServerName, force bool) error {
	if err := c.Sync(ctx); err != nil {
		return err
	}
	row, err := c.mayRemove(name, force)
	if err != nil {
		return err
	}
	leaving := Op{Key: dirLeaving + row.Identity, Value: mustJSON(removedRow{name, time.Now().UTC()})}
	if c.Alive(name) {
		// It cannot hear of its own removal any more when that is done.
		if _, err := c.Commit(ctx, Txn{Then: []Op{leaving}}); err != nil {
			return err
		}
	}
	leaving.Delete = true
	// The vote goes before the row: a server that is refused must not be
	// needed for the quorum.
	if err := c.dropMember(ctx, row); err != nil {
		c.Commit(ctx, Txn{Then: []Op{leaving}}) // it stays for now; the error below tells
		return err
	}
	_, err = c.Commit(ctx, Txn{
		If:   []Cond{{dirServers + string(name), c.View().ServerRevision(name)}},
		Then: []Op{{Key: dirServers + string(name), Delete: true}, {Key: dirLive + string(name), Delete: true}, tombstone(row), leaving},
	})
	if err == nil {
		c.events.Emit(evRemoved, "server %s was removed from the group", name)
	}
	return err
}

func (c *Cluster) mayRemove(name org.ServerName, force bool) (org.Server, error) {
	v := c.View()
	row, ok := v.Server(name)
	if !ok {
		return row, kind.Errorf(kind.NotFound, "remove server %s: not a member of the group", name)
	}
	if len(v.Servers()) == 1 {
		return row, kind.Errorf(kind.Invalid, "remove server %s: it is the last one", name)
	}
	others := slices.ContainsFunc(v.Servers(), func(s org.Server) bool { return s.Voter && s.Name != name })
	if row.Voter && !others {
		return row, kind.WithHint(kind.Errorf(kind.Invalid, "remove server %s: no other server votes yet", name), "wait until another one does (postern cluster status)")
	}
	if force {
		return row, nil
	}
	for _, d := range v.Databases() {
		if _, has := d.Copy(name); has {
			return row, kind.WithHint(kind.Errorf(kind.Invalid, "remove server %s: it holds a copy of %s", name, d.Name), "postern copy remove, or --force if the server is lost")
		}
	}
	if c.Alive(name) {
		return row, kind.WithHint(kind.Errorf(kind.Invalid, "remove server %s: it is alive", name), "stop it first, or --force")
	}
	return row, nil
}

// dropMember removes a server from etcd's list of members.
func (c *Cluster) dropMember(ctx context.Context, row org.Server) error {
	if !row.Voter || c.external() {
		return nil
	}
	// etcd wants to have seen the others connected for five seconds before it
	// lets a living member go.
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CommitTimeout+6*time.Second)
	defer cancel()
	return c.try(ctx, "remove the vote of "+string(row.Name), func(ctx context.Context, cl *clientv3.Client) error {
		list, err := cl.MemberList(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Members, func(m *etcdMember) bool { return slices.Contains(m.PeerURLs, row.PeerURL) })
		if i < 0 {
			return nil
		}
		_, err = cl.MemberRemove(ctx, list.Members[i].ID)
		if rpctypes.Error(err) == rpctypes.ErrMemberNotFound {
			return nil
		}
		return err
	})
}

// forceAlone makes this server the only one of the group after ForceNew.
func (c *Cluster) forceAlone(ctx context.Context, cl *clientv3.Client) error {
	resp, err := cl.Get(ctx, prefix+dirServers, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	for _, kv := range resp.Kvs {
		var row org.Server
		if decodeJSON(kv.Value, &row) != nil || row.Name == c.self.Name {
			continue
		}
		t := tombstone(row)
		ops = append(ops, clientv3.OpDelete(string(kv.Key)), clientv3.OpDelete(prefix+dirLive+string(row.Name)), clientv3.OpPut(prefix+t.Key, string(t.Value)))
	}
	if len(ops) == 0 {
		return nil
	}
	_, err = cl.Txn(ctx).Then(ops...).Commit()
	return err
}
