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
	row, err := c.mayRemove(c.View(), name, force)
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
	if err := c.takeOut(ctx, row, force, leaving); err != nil {
		c.Commit(ctx, Txn{Then: []Op{leaving}}) // it stays for now; the error below tells
		return err
	}
	c.events.Emit(evRemoved, "server %s was removed from the group", name)
	return nil
}

// takeOutTries bounds how often takeOut begins again because the row, or that of
// a database, was changed meanwhile.
const takeOutTries = 5

// takeOut ends the vote and then the row of a server that was judged. The vote
// goes first: a server that is refused must not be needed for the quorum. That
// may take seconds, so all is judged once more on the view whose revisions the
// end of the row depends on: meanwhile another server may have taken the place
// (join --replace), or a database a copy there.
func (c *Cluster) takeOut(ctx context.Context, row org.Server, force bool, leaving Op) error {
	key := dirServers + string(row.Name)
	for range takeOutTries {
		if err := c.dropMember(ctx, row); err != nil {
			return err
		}
		if err := c.Sync(ctx); err != nil {
			return err
		}
		v := c.View()
		now, err := c.mayRemove(v, row.Name, force)
		switch {
		case err != nil:
			return err // a vote that has ended is not given back; --force goes on
		case now.Identity != row.Identity:
			return replacedMeanwhile(row.Name)
		case now.Voter != row.Voter || now.PeerURL != row.PeerURL:
			row = now // it has another vote than the one that ended
			continue
		}
		t := Txn{
			If:   []Cond{{key, v.ServerRevision(row.Name)}},
			Then: []Op{{Key: key, Delete: true}, {Key: dirLive + string(row.Name), Delete: true}, tombstone(row), leaving},
		}
		var noCopy []clientv3.Cmp
		if !force {
			noCopy = append(noCopy, still(dirDatabases, v.Revision()))
			t.If = append(t.If, Cond{Key: dirLive + string(row.Name)}) // nor was it started
		}
		if _, err = c.commit(ctx, t, noCopy...); !kind.Is(err, kind.Conflict) {
			return err
		}
	}
	return kind.WithHint(kind.Errorf(kind.Conflict, "remove server %s: its row is changed all the time", row.Name), "repeat the command")
}

func replacedMeanwhile(name org.ServerName) error {
	return kind.WithHint(kind.Errorf(kind.Conflict, "server %s is another one now, which took its place meanwhile", name), "postern server show "+string(name))
}

// mayRemove judges a removal on a view.
func (c *Cluster) mayRemove(v *View, name org.ServerName, force bool) (org.Server, error) {
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
	if _, alive := v.Get(dirLive + string(name)); alive {
		return row, kind.WithHint(kind.Errorf(kind.Invalid, "remove server %s: it is alive", name), "stop it first, or --force")
	}
	return row, nil
}

// dropMember removes a server from etcd's list of members. The error is Conflict
// where its row is another server's by now: that one may vote at the same address.
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
		// Read after the list: who is listed of a later row is not in it.
		resp, err := cl.Get(ctx, prefix+dirServers+string(row.Name))
		if err != nil {
			return err
		}
		var now org.Server
		if len(resp.Kvs) == 1 && decodeJSON(resp.Kvs[0].Value, &now) == nil && now.Identity != row.Identity {
			return replacedMeanwhile(row.Name)
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
