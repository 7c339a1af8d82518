package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/postern-mail/postern/internal/admin/audit"
	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/kind"
)

// sessionPrefix is where sessions are in the agreed state, by the SHA-256 of
// their token: 32 random bytes need no slow hash, and the look-up by hash
// leaks nothing about a token by its time.
const sessionPrefix = "sessions/"

// Bounds of sessions.
const (
	maxSessions      = 10_000
	maxSessionsLogin = 32
)

type session struct {
	Login   string    `json:"login"`
	Stamp   string    `json:"stamp,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

type sessions struct {
	state State
	auth  Authenticator
	life  time.Duration
	now   func() time.Time
}

func sessionKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return sessionPrefix + hex.EncodeToString(sum[:])
}

// create makes a token. An account with too many sessions loses its oldest.
func (s *sessions) create(ctx context.Context, a Account) (wire.Session, error) {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	token := base64.RawURLEncoding.EncodeToString(b[:])
	now := s.now().UTC()
	row, err := json.Marshal(session{a.Login, a.Stamp, now, now.Add(s.life)})
	if err != nil {
		return wire.Session{}, err
	}
	writes := []audit.Write{{Key: sessionKey(token), Value: row}}
	all, mine, oldest := 0, 0, audit.Write{}
	var first time.Time
	for key, value := range s.state.Prefix(sessionPrefix) {
		all++
		var other session
		if json.Unmarshal(value, &other) != nil || other.Login != a.Login {
			continue
		}
		mine++
		if oldest.Key == "" || other.Created.Before(first) {
			oldest.Key, first = key, other.Created
		}
	}
	switch {
	case mine >= maxSessionsLogin:
		writes = append(writes, oldest)
	case all >= maxSessions:
		return wire.Session{}, kind.Errorf(kind.Busy, "%d sessions are open", all)
	}
	if err := s.state.Write(ctx, writes); err != nil {
		return wire.Session{}, err
	}
	return wire.Session{Token: token, Expires: now.Add(s.life)}, nil
}

// check tells whose a token is, with the roles of now.
func (s *sessions) check(ctx context.Context, token string) (Account, error) {
	value, ok := s.state.Get(sessionKey(token))
	if !ok {
		return Account{}, unauthenticated("the token is not known or has ended")
	}
	var row session
	if err := json.Unmarshal(value, &row); err != nil {
		return Account{}, kind.Errorf(kind.Corrupt, "session: %w", err)
	}
	if !s.now().Before(row.Expires) {
		return Account{}, unauthenticated("the token is not known or has ended")
	}
	acc, err := s.auth.Account(ctx, row.Login)
	if kind.Is(err, kind.NotFound) || kind.Is(err, kind.Denied) || err == nil && acc.Stamp != row.Stamp {
		return Account{}, unauthenticated("the token is not known or has ended")
	}
	return acc, err
}

// end forgets a token.
func (s *sessions) end(ctx context.Context, token string) error {
	key := sessionKey(token)
	if _, ok := s.state.Get(key); !ok {
		return unauthenticated("the token is not known or has ended")
	}
	return s.state.Write(ctx, []audit.Write{{Key: key}})
}

// sweepOnce removes up to 64 sessions that have ended and tells how many.
func (s *sessions) sweepOnce(ctx context.Context) (int, error) {
	var old []audit.Write
	for key, value := range s.state.Prefix(sessionPrefix) {
		var row session
		if json.Unmarshal(value, &row) == nil && s.now().Before(row.Expires) {
			continue
		}
		if old = append(old, audit.Write{Key: key}); len(old) == 64 {
			break
		}
	}
	if len(old) == 0 {
		return 0, nil
	}
	return len(old), s.state.Write(ctx, old)
}

// sweep removes ended sessions every ten minutes. All servers do; removing
// twice does no harm.
func (s *Server) sweep(ctx context.Context) error {
	t := time.NewTicker(10 * time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if _, err := s.sessions.sweepOnce(ctx); err != nil {
				s.log.Debug("ended sessions stay until the next turn", "error", err)
			}
		}
	}
}
