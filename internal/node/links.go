package node

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// linkItems look at what the server depends on: the agreed state, the other
// servers' clocks, the networks between them, certificates, resolvers.
func linkItems(r probed) health.Items {
	c := r.cluster
	l := health.Links{
		Peers: func() []string { return r.peersWithClocks() },
		Offset: func(_ context.Context, peer string) (health.Reading, error) {
			d, _ := r.offset(org.ServerName(peer))
			return health.Reading{Value: d.Abs().Seconds(), Text: d.Round(time.Millisecond).String()}, nil
		},
		Certificates: func() []string {
			if c == nil {
				return nil
			}
			return []string{certDoors, certServer, certGroup}
		},
		Ends: func(_ context.Context, name string) (health.Reading, error) {
			return r.certificateEnds(name, time.Now())
		},
		State: func(ctx context.Context, _ string) (health.Reading, error) {
			begun := time.Now()
			err := c.Sync(ctx)
			return health.Reading{Value: time.Since(begun).Seconds()}, err
		},
		Margin: func(ctx context.Context, _ string) (health.Reading, error) {
			spare, text, err := c.Margin(ctx)
			return health.Reading{Value: float64(spare), Text: text}, err
		},
		PathList: func() []string {
			if c == nil {
				return nil
			}
			return c.PathTargets()
		},
		Paths: func(_ context.Context, target string) (health.Reading, error) {
			text, err := c.LookAtPath(target)
			return health.Reading{Text: text}, err
		},
		Client: func(context.Context, string) (health.Reading, error) {
			text, err := c.ClientNetwork()
			return health.Reading{Text: text}, err
		},
		Names: func(ctx context.Context, _ string) (health.Reading, error) {
			if r.mover == nil {
				return health.Reading{Text: "no mail here"}, nil
			}
			text, err := r.mover.Resolves(ctx)
			return health.Reading{Text: text}, err
		},
	}
	return health.LinkItems(l)
}

// peersWithClocks are the servers that are heard and tell the time.
func (r probed) peersWithClocks() []string {
	if r.cluster == nil {
		return nil
	}
	var out []string
	for _, s := range (mesh{r.cluster}).Members() {
		if s == r.cluster.Name() || !(mesh{r.cluster}).Up(s) {
			continue
		}
		if _, ok := r.offset(s); ok {
			out = append(out, string(s))
		}
	}
	return out
}

// offset is by how much a server's clock is before this one's.
func (r probed) offset(s org.ServerName) (time.Duration, bool) {
	b, _, ok := r.cluster.Published(s, transport.ClockSection)
	came, known := r.cluster.Came(s, transport.ClockSection)
	if !ok || !known {
		return 0, false
	}
	return transport.ClockOffset(b, came)
}

// Certificates that are looked at.
const (
	certDoors  = "doors"
	certServer = "server"
	certGroup  = "group"
)

// shortLife is the life below which a certificate's days count for more, so that
// one of 45 days, renewed when a third is left, is not called late all its life.
const shortLife = 105 * 24 * time.Hour

// certificateEnds tells how many days a certificate has left.
func (r probed) certificateEnds(name string, now time.Time) (health.Reading, error) {
	var leaf *x509.Certificate
	switch name {
	case certDoors:
		if r.certs != nil {
			leaf = r.certs.Leaf()
		}
	case certServer:
		if own := r.cluster.Certificate(); own != nil {
			leaf = own.Leaf
		}
	case certGroup:
		leaf = r.cluster.CA()
	}
	if leaf == nil {
		return health.Reading{}, kind.Errorf(kind.NotFound, "there is no certificate")
	}
	return health.Reading{Value: daysLeft(leaf, now), Text: "until " + leaf.NotAfter.UTC().Format(time.DateOnly)}, nil
}

// daysLeft are the days until the end of a certificate; of one of short life as
// many as its share of shortLife.
func daysLeft(leaf *x509.Certificate, now time.Time) float64 {
	left, life := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
	if life > 0 && life < shortLife {
		left = time.Duration(float64(left) / float64(life) * float64(shortLife))
	}
	return left.Hours() / 24
}
