package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/postern-mail/postern/internal/base/kind"
)

// acmeRun is certmagic at work.
type acmeRun struct {
	magic *certmagic.Config
	cache *certmagic.Cache
}

// startACME begins to obtain and renew. What it returns stops all of it.
func (s *Source) startACME(ctx context.Context) (stop func(), err error) {
	roots, err := readRoots(s.cfg.ACME.RootsFile)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	store := newStorage(ctx, s.deps.KV)
	run := &acmeRun{}
	run.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return run.magic, nil },
		Capacity:         1000,
		Logger:           zap.NewNop(), // what matters comes through OnEvent
	})
	run.magic = certmagic.New(run.cache, certmagic.Config{
		Storage: store, DefaultServerName: s.cfg.Names[0], FallbackServerName: s.cfg.Names[0],
		Logger: zap.NewNop(), OnEvent: s.onEvent,
		ShouldEmitFunc: func(name string) bool { return strings.HasPrefix(name, "cert_") },
		// Stapling would make handshakes depend on a host of the authority.
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	})
	host, port := splitPort(s.cfg.ACME.HTTPListen)
	issuer := certmagic.NewACMEIssuer(run.magic, certmagic.ACMEIssuer{
		CA: s.cfg.ACME.Directory, Email: s.cfg.ACME.Email, Agreed: s.cfg.ACME.Agree, TrustedRoots: roots,
		ListenHost: host, AltHTTPPort: port, DisableTLSALPNChallenge: true, Logger: zap.NewNop(),
	})
	run.magic.Issuers = []certmagic.Issuer{issuer}
	closeHTTP := s.serveChallenges(ctx, issuer)
	s.acme.Store(run)
	stop = func() {
		s.acme.Store(nil)
		cancel()
		closeHTTP()
		run.cache.Stop()
		store.close()
	}
	if err := run.magic.ManageAsync(ctx, s.cfg.Names); err != nil {
		stop()
		return nil, fmt.Errorf("tls: manage certificates: %w", err)
	}
	return stop, nil
}

// serveChallenges answers HTTP challenges that any server of the group began.
func (s *Source) serveChallenges(ctx context.Context, issuer *certmagic.ACMEIssuer) (stop func()) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.ACME.HTTPListen)
	if err != nil {
		s.deps.Events.Emit(eventChallenge, "HTTP challenges cannot be answered at %s: %v", s.cfg.ACME.HTTPListen, err)
		return func() {}
	}
	srv := &http.Server{
		Handler:     issuer.HTTPChallengeHandler(http.NotFoundHandler()),
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Warn("challenge listener", "err", err)
		}
	}()
	return func() {
		srv.Close()
		<-done
	}
}

// onEvent hears what certmagic does.
func (s *Source) onEvent(_ context.Context, name string, data map[string]any) error {
	switch name {
	case "cert_obtained":
		s.deps.Events.Emit(eventReplaced, "certificate for %v was obtained from the ACME authority", data["identifier"])
	case "cert_failed":
		s.deps.Events.Emit(eventFailed, "certificate for %v was not obtained: %v", data["identifier"], data["error"])
	}
	return nil
}

// leaf is the certificate that is shown for one of the names and ends first.
func (a *acmeRun) leaf(names []string) *x509.Certificate {
	var first *x509.Certificate
	for _, n := range names {
		var last *x509.Certificate // for one name the newest is shown
		for _, c := range a.cache.AllMatchingCertificates(n) {
			if c.Leaf != nil && (last == nil || c.Leaf.NotAfter.After(last.NotAfter)) {
				last = c.Leaf
			}
		}
		if last != nil && (first == nil || last.NotAfter.Before(first.NotAfter)) {
			first = last
		}
	}
	return first
}

func (a *acmeRun) end(names []string) time.Time {
	if leaf := a.leaf(names); leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

func readRoots(name string) (*x509.CertPool, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("tls: acme.roots_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, kind.Errorf(kind.Invalid, "tls: acme.roots_file %s: no certificate in it", name)
	}
	return pool, nil
}

// splitPort reads host:port; certmagic wants them apart.
func splitPort(addr string) (host string, port int) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0 // certmagic's own default, port 80
	}
	port, _ = strconv.Atoi(p) // a name stands for the default too
	return host, port
}
