package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/logging"
)

// service is what this door calls itself to the directory.
const service = "admin"

// Bounds of what is looked at before anybody is known, in bytes.
const (
	maxLogin    = 320
	maxPassword = 1024
)

func unauthenticated(detail string) error {
	return wire.New(http.StatusUnauthorized, wire.KindUnauthenticated, detail, "log in with a name and password or a token")
}

// identify tells who sends r.
func (s *Server) identify(r *http.Request) (command.Caller, error) {
	ctx := r.Context()
	if p, ok := ctx.Value(peerKey{}).(peer); ok {
		if !p.trusted {
			return command.Caller{}, kind.Errorf(kind.Denied, "user %d may not use the socket", p.uid)
		}
		return command.Caller{
			Name: fmt.Sprintf("local:%d", p.uid), Roles: []command.Role{command.ServerAdmin}, Remote: "local", TraceID: logging.TraceID(ctx),
		}, nil
	}
	if token, ok := bearer(r); ok {
		acc, err := s.sessions.check(ctx, token)
		if err != nil {
			return command.Caller{}, err
		}
		return callerOf(ctx, acc, remoteOf(r)), nil
	}
	login, password, ok := r.BasicAuth()
	if !ok {
		return command.Caller{}, unauthenticated("who are you?")
	}
	acc, err := s.authenticate(ctx, login, password, remoteOf(r))
	if err != nil {
		return command.Caller{}, err
	}
	return callerOf(ctx, acc, remoteOf(r)), nil
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

// authenticate checks a password. Every try costs the address one of its
// tries, which a right password gives back; so the limit also holds for tries
// at the same moment.
func (s *Server) authenticate(ctx context.Context, login, password string, remote netip.Addr) (Account, error) {
	if login == "" || len(login) > maxLogin || len(password) > maxPassword {
		return Account{}, unauthenticated("name or password is wrong")
	}
	key := network(remote)
	if ok, wait := s.wrong.take(key, s.now()); !ok {
		if say, _ := s.told.take(key, s.now()); say {
			s.deps.Events.Emit(EventLoginsBlocked, "wrong passwords from %s: further logins wait %s", remote, wait)
		}
		return Account{}, tooMany(wait)
	}
	acc, err := s.deps.Auth.Authenticate(ctx, login, password, service, remote)
	switch {
	case err == nil:
		s.wrong.give(key, s.now())
		return acc, nil
	case kind.Is(err, kind.Denied), kind.Is(err, kind.NotFound), kind.Is(err, kind.Invalid):
		s.met.failed.Inc()
		s.log.WarnContext(ctx, "admin login refused", "login", login, "remote", remote, "error", err)
		return Account{}, unauthenticated("name or password is wrong")
	}
	s.wrong.give(key, s.now()) // not the caller's fault
	return Account{}, err
}

func callerOf(ctx context.Context, a Account, remote netip.Addr) command.Caller {
	c := command.Caller{Name: a.Login, Remote: remote.String(), TraceID: logging.TraceID(ctx)}
	if a.ServerAdmin {
		c.Roles = []command.Role{command.ServerAdmin}
		return c
	}
	c.Organization = string(a.Organization)
	for _, r := range a.Roles {
		if r != command.ServerAdmin { // only the flag makes one
			c.Roles = append(c.Roles, r)
		}
	}
	return c
}

func remoteOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// network is what wrong passwords are counted by: an IPv4 address, or the /64
// that a single IPv6 host usually has to itself.
func network(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
