package guard

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Connect judges a connection. Refused ones are to be closed after the answer.
func (g *Guard) Connect(ctx context.Context, p *mail.Peer) mail.Verdict {
	now := time.Now()
	f := g.inForce()
	if f.allow.network(p.Remote, now) {
		return g.said("allow", pass())
	}
	if f.block.network(p.Remote, now) {
		return g.said("block", closing(refuse("5.7.1", "This network is not let in", "block list")))
	}
	if g.many(p) {
		return pass()
	}
	if p.Door != doorReceive { // logins are limited by those who check them
		return g.slow(p, pass())
	}
	limit := g.deps.Settings.Group().ConnectionsPerMinute
	if n := g.mem.connected(network(p.Remote), limit, now); limit > 0 && n > int64(limit) {
		return g.said("rate", closing(later("4.7.0", "Too many connections from your network, try again later", "connections of a minute")))
	}
	if v := g.lookUp(ctx, p); v.Action != mail.ActionPass {
		return v
	}
	return g.slow(p, pass())
}

// many tells whether the peer may speak for many: a program of this host, a
// closed network, a connector's networks. That is no proof of anything, but such
// a one is not counted as one stranger, nor made to wait for what others do.
func (g *Guard) many(p *mail.Peer) bool {
	a := p.Remote.Unmap()
	if a.IsLoopback() || g.near(p) {
		return true
	}
	for _, c := range g.deps.Settings.AllConnectors() {
		if c.Enabled && c.Direction != settings.DirectionOut && within(a, c.Networks) {
			return true
		}
	}
	return false
}

// Hello judges the name a peer gives itself. Names prove nothing, and honest
// hosts have wrong ones: only a peer that takes ours is a liar for sure.
func (g *Guard) Hello(_ context.Context, p *mail.Peer) mail.Verdict {
	if p.Door == doorReceive && g.claimsUs(p) {
		return g.said("hello", closing(refuse("5.7.1", "That is this server's name, not yours", "our name in HELO")))
	}
	return pass()
}

// Failed remembers that the peer did what guessers do: a wrong password, an
// unknown recipient, a bad command. Its network is made to wait for answers
// once that happens often. Attempts to relay are counted by Recipient itself.
func (g *Guard) Failed(p *mail.Peer, what string) {
	g.m.failed.WithLabelValues(failure(what)).Inc()
	if p.Connector != "" || g.many(p) || g.inForce().allow.network(p.Remote, time.Now()) {
		return
	}
	g.mem.fail(network(p.Remote), time.Now())
}

// slow adds the tarpit's delay to an answer; the answer is the same.
func (g *Guard) slow(p *mail.Peer, v mail.Verdict) mail.Verdict {
	if !stranger(p) {
		return v
	}
	if v.Delay = g.mem.tarpit(network(p.Remote), p.Remote, time.Now()); v.Delay > 0 {
		g.m.guard.WithLabelValues("tarpit", "delay").Inc()
	}
	return v
}
