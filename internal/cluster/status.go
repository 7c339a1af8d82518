package cluster

import (
	"cmp"
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// sectionCertificate is where each server publishes how long its certificate lasts.
const sectionCertificate = "cluster/certificate"

// Status is the state of the agreed state as this server finds it.
type Status struct {
	Group    string         `json:"group" col:"GROUP"`
	Server   org.ServerName `json:"server" col:"ASKED"`
	Quorum   bool           `json:"quorum" col:"QUORUM"`
	Leader   string         `json:"leader" col:"LEADER"`
	Revision int64          `json:"revision" col:"REVISION"`
	Keys     int            `json:"keys" col:"KEYS"`
	External bool           `json:"external" col:"-"`
	Members  []MemberStatus `json:"members" col:"-"`
	Alarms   []string       `json:"alarms,omitempty" col:"ALARMS"`
	Error    string         `json:"error,omitempty" col:"ERROR"`
}

// MemberStatus is one voting member of the agreed state.
type MemberStatus struct {
	Name    string `json:"name"`
	ID      uint64 `json:"id"`
	URL     string `json:"url"`
	Leader  bool   `json:"leader"`
	Learner bool   `json:"learner,omitempty"`
}

// Status asks the agreed state how it is; without quorum it tells what is
// known here, with the error.
func (c *Cluster) Status(ctx context.Context) Status {
	v := c.View()
	s := Status{Group: c.self.Group, Server: c.self.Name, Quorum: c.Quorum(), Revision: v.Revision(), Keys: v.Len(), External: c.external()}
	ctx, cancel := context.WithTimeout(ctx, 2*attempt)
	defer cancel()
	err := c.try(ctx, "status", func(ctx context.Context, cl *clientv3.Client) error {
		list, err := cl.MemberList(ctx)
		if err != nil {
			return err
		}
		s.Members = nil
		for _, m := range list.Members {
			s.Members = append(s.Members, MemberStatus{Name: m.Name, ID: m.ID, URL: slices.Concat(m.PeerURLs, []string{""})[0], Learner: m.IsLearner})
		}
		alarms, err := cl.AlarmList(ctx)
		if err != nil {
			return err
		}
		s.Alarms = nil
		for _, a := range alarms.Alarms {
			s.Alarms = append(s.Alarms, a.Alarm.String())
		}
		return nil
	})
	if err != nil {
		s.Error = err.Error()
	}
	slices.SortFunc(s.Members, func(a, b MemberStatus) int { return cmp.Compare(a.Name, b.Name) })
	leader := c.leader(ctx)
	for i, m := range s.Members {
		if m.ID == leader && leader != 0 {
			s.Members[i].Leader, s.Leader = true, m.Name
		}
	}
	return s
}

// leader is etcd's number of the leader, 0 if it is not known.
func (c *Cluster) leader(ctx context.Context) uint64 {
	b, _ := c.currentBackend()
	if b == nil {
		return 0
	}
	if b.member != nil {
		return b.member.Leader()
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	for _, ep := range b.client.Endpoints() {
		if st, err := b.client.Status(ctx, ep); err == nil {
			return st.Leader
		}
	}
	return 0
}

// watchAlarms reports alarms of the agreed state; it runs on the leader.
func (c *Cluster) watchAlarms(ctx context.Context) error {
	told := map[string]bool{}
	for ctx.Err() == nil {
		sleep(ctx, 30*time.Second)
		if b, _ := c.currentBackend(); b == nil || b.member == nil || b.member.Leader() != b.member.ID() {
			clear(told)
			continue
		}
		if err := c.lookAtAlarms(ctx, told); err != nil && !kind.Is(err, kind.Busy) && ctx.Err() == nil {
			c.log.Warn("cluster: alarms", "error", err)
		}
	}
	return nil
}

func (c *Cluster) lookAtAlarms(ctx context.Context, told map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*attempt)
	defer cancel()
	return c.try(ctx, "alarms", func(ctx context.Context, cl *clientv3.Client) error {
		list, err := cl.AlarmList(ctx)
		if err != nil {
			return err
		}
		for _, a := range list.Alarms {
			if name := a.Alarm.String(); !told[name] {
				told[name] = true
				c.events.Emit(evAlarm, "agreed state raised alarm %s at member %x", name, a.MemberID)
			}
		}
		return nil
	})
}
