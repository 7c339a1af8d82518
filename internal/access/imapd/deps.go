package imapd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Directory checks passwords. Errors: kind.Denied for a wrong one, kind.Busy
// when it cannot tell.
type Directory interface {
	Authenticate(ctx context.Context, login, password, service string, remote netip.Addr) (directory.Account, error)
}

// Deps is what the door needs from the rooms below.
type Deps struct {
	Store     mail.Store
	Directory Directory
	// TLS is for both doors; without it nobody can log in.
	TLS *tls.Config
	// Component tells what org.IMAPComponent may do and gives a channel that is
	// closed when that may have changed; nil: always Active.
	Component func(org.Component) (org.ComponentState, <-chan struct{})
	// Listen opens an address; nil: the network of this machine.
	Listen  func(ctx context.Context, addr string) (net.Listener, error)
	Log     *slog.Logger          // nil: silent
	Events  *event.Log            // nil: none
	Metrics prometheus.Registerer // nil: not exported
}
