package imapd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// session is one connection's view of its mailbox. Only the goroutine that
// works on a command, or that of IDLE, uses it.
type session struct {
	srv     *Server
	conn    *imapserver.Conn
	log     *slog.Logger
	remote  netip.Addr
	begun   time.Time
	account *directory.Account // nil before login
	login   string
	fails   int
	sel     *selected // nil where no mailbox is selected

	appendHeld int64 // bytes of append memory that were granted
}

func (srv *Server) newSession(conn *imapserver.Conn, remote netip.Addr) *session {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return &session{
		srv: srv, conn: conn, remote: remote, begun: time.Now(),
		log: srv.log.With("trace", hex.EncodeToString(id[:]), "remote", remote.String()),
	}
}

// newKey makes the key of a change.
func newKey() (k mail.Key) {
	rand.Read(k[:]) // never fails
	return k
}

// wait bounds a call of the store by wait_timeout.
func (s *session) wait() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.srv.ctx, s.srv.cfg.WaitTimeout.Std())
}

// Login implements imapserver.Session.
func (s *session) Login(login, password string) error {
	ctx, cancel := s.wait()
	defer cancel()
	account, err := s.srv.deps.Directory.Authenticate(ctx, login, password, directory.ServiceIMAP, s.remote)
	switch {
	case err == nil && account.Mailbox == (org.MailboxRef{}):
		return s.loginFailed(ctx, login) // an administrator without a mailbox
	case err == nil:
	case kind.Is(err, kind.Busy) || kind.Is(err, kind.Internal):
		s.srv.metrics.logins.WithLabelValues("unavailable").Inc()
		s.log.Warn("imap login not possible", "login", clip(login), "err", err)
		return no(imap.ResponseCodeUnavailable, "Logins are temporarily not possible, try again")
	default:
		return s.loginFailed(ctx, login)
	}
	if !s.srv.enter(account.ID) {
		s.srv.metrics.logins.WithLabelValues("limit").Inc()
		return no(imap.ResponseCodeLimit, "Too many sessions of this account")
	}
	s.account, s.login = &account, login
	s.srv.metrics.logins.WithLabelValues("ok").Inc()
	s.srv.metrics.sessions.Inc()
	s.log = s.log.With("account", account.Name)
	s.log.Log(ctx, s.level(), "imap login", "login", clip(login), "organization", account.Organization,
		"mailbox", account.Mailbox.ID.String(), "tls", tlsVersion(s.conn))
	return nil
}

// loginFailed answers a wrong password after a pause that grows, and ends the
// connection after the last try.
func (s *session) loginFailed(ctx context.Context, login string) error {
	s.fails++
	s.srv.metrics.logins.WithLabelValues("denied").Inc()
	s.log.Warn("imap login denied", "login", clip(login), "try", s.fails)
	pause := time.NewTimer(time.Duration(s.fails) * s.srv.cfg.AuthDelay.Std())
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	if s.fails >= s.srv.cfg.MaxAuthFailures {
		s.conn.Shutdown("Too many wrong passwords")
	}
	return imapserver.ErrAuthFailed
}

// Close implements imapserver.Session.
func (s *session) Close() error {
	s.deselect()
	s.releaseAppend()
	if s.account == nil {
		return nil
	}
	s.srv.leave(s.account.ID)
	s.srv.metrics.sessions.Dec()
	in, out := s.conn.Traffic()
	s.log.Log(s.srv.ctx, s.level(), "imap logout", "login", clip(s.login), "bytes_in", in, "bytes_out", out,
		"seconds", int64(time.Since(s.begun).Seconds()))
	return nil
}

// level is that of logins: those of health probes are many and all alike.
func (s *session) level() slog.Level {
	if s.account != nil && s.account.Health {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// clip bounds what a client may write into a log.
func clip(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strings.ToValidUTF8(s, "?")
}

func tlsVersion(c *imapserver.Conn) string {
	if t, ok := c.NetConn().(*tls.Conn); ok {
		return tls.VersionName(t.ConnectionState().Version)
	}
	return "none"
}
