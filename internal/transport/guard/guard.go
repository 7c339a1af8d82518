package guard

import (
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/authn"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/scrub"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// The doors, as mail.Peer names them.
const (
	doorReceive    = "receive"
	doorSubmission = "submission"
)

// Config is what holds for this server.
type Config struct {
	// Hostname is our name in Authentication-Results (RFC 8601: authserv-id).
	Hostname string
	// Private says that this network is closed: clients in it are not asked
	// for what only DNS of the Internet could tell.
	Private bool
}

// Directory is the part of *directory.Directory that policy asks.
type Directory interface {
	Hosted(domain string) bool
	OrganizationOf(domain string) (org.OrganizationID, bool)
	// Destination has the errors NotFound, Elsewhere, Denied and Busy.
	Destination(a mail.Address) (directory.Destination, error)
}

// Deps are what a Guard needs.
type Deps struct {
	// View is the agreed state: allow and block lists.
	View      func() *cluster.View
	Settings  *settings.Book
	Directory Directory
	// Usage asks about a mailbox that was full (mail.Store.Usage).
	Usage    func(ctx context.Context, at org.MailboxRef) (mail.Usage, error)
	Resolver *dns.Resolver
	// Returns tells whether an address of ours is a rewritten sender (SRS) that
	// leads back to somebody: it takes bounces and nothing else. nil: none is.
	Returns func(a mail.Address) bool
	// Roots vouch for client certificates; nil: the system's.
	Roots *x509.CertPool
	// Broadcast hands a batch to all other servers, best effort; it must not
	// block for long. What arrives there goes to Remember.
	Broadcast func(batch []byte)
	// Spam and Malware look at content; nil: nobody does.
	Spam, Malware scrub.Scanner
	// Others look at every message after those two, one after the other.
	Others []Other
	// Note takes what reports to author domains are made of; nil: nothing does. It
	// must not block.
	Note    func(Observation)
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer // nil: none
}

// Guard judges sessions, recipients and messages. Its methods may be called by
// many at once; those that get a *mail.Peer by one at a time for each.
type Guard struct {
	cfg  Config
	deps Deps
	rows rows
	mem  *memory
	m    *metrics

	checker       *authn.Checker
	spam, malware *scanner // nil: none
	others        []other
}

// New makes a Guard. It starts nothing; Run has to follow.
func New(cfg Config, deps Deps) *Guard {
	g := &Guard{cfg: cfg, deps: deps, mem: newMemory(tableSize), m: newMetrics(deps.Metrics),
		spam: newScanner("spam", deps.Spam), malware: newScanner("malware", deps.Malware)}
	for _, o := range deps.Others {
		g.others = append(g.others, other{newScanner(o.Name, o.Scanner), o.Fail})
	}
	g.checker = newChecker(deps.Resolver, func(sealer string) bool {
		return slices.ContainsFunc(deps.Settings.Group().ARCTrusted, func(d string) bool { return strings.EqualFold(d, sealer) })
	})
	return g
}

// Run tells the other servers once a second what was seen here.
func (g *Guard) Run(ctx context.Context) error {
	t := time.NewTicker(gossipEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if b := g.mem.batch(); b != nil {
				g.deps.Broadcast(b)
			}
		}
	}
}

// near tells whether the peer is in our own closed network.
func (g *Guard) near(p *mail.Peer) bool {
	a := p.Remote.Unmap()
	return g.cfg.Private && (a.IsLoopback() || a.IsPrivate())
}

// stranger tells whether nobody vouches for the peer.
func stranger(p *mail.Peer) bool { return p.Account == "" && p.Connector == "" }

func pass() mail.Verdict { return mail.Verdict{} }

func refuse(status, text, why string) mail.Verdict {
	return mail.Verdict{Action: mail.ActionRefuse, Status: status, Text: text, Why: why}
}

func later(status, text, why string) mail.Verdict {
	return mail.Verdict{Action: mail.ActionDefer, Status: status, Text: text, Why: why}
}

// closing hangs up after the answer.
func closing(v mail.Verdict) mail.Verdict {
	v.Close = true
	return v
}
