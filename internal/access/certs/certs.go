package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Sources of certificates.
const (
	SourceOwn   = "own"
	SourceFiles = "files"
	SourceACME  = "acme"
)

// Config says where the certificate comes from.
type Config struct {
	Source   string   `toml:"source" doc:"Where the certificate of the doors comes from: the group's own CA, files, or an ACME authority." enum:"own,files,acme"`
	Names    []string `toml:"names" doc:"Host names in the certificate. Empty: the names this server is known by (own CA only)."`
	CertFile string   `toml:"cert_file" doc:"Certificate with its chain, PEM. Changes are taken up without a restart."`
	KeyFile  string   `toml:"key_file" doc:"Private key of cert_file, PEM."`
	ACME     ACME     `toml:"acme" doc:"The ACME authority, with source = \"acme\"."`
}

// ACME is the authority and how it checks that the names are ours.
type ACME struct {
	Directory  string `toml:"directory" doc:"URL of the authority's directory."`
	Email      string `toml:"email" doc:"Where the authority may write to about the certificate."`
	Agree      bool   `toml:"agree_to_terms" doc:"Whether you agree to the authority's terms of service. Needed."`
	HTTPListen string `toml:"http_listen" doc:"Where HTTP challenges are answered. The authority always asks at port 80 of the names, at any server."`
	RootsFile  string `toml:"roots_file" doc:"CA certificates (PEM) to trust when talking to a private authority."`
}

// Default is the configuration of an empty file.
func Default() Config {
	return Config{Source: SourceOwn, ACME: ACME{Directory: "https://acme-v02.api.letsencrypt.org/directory", HTTPListen: ":80"}}
}

// Validate tells every wrong setting at once.
func (c Config) Validate() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	switch c.Source {
	case "", SourceOwn:
	case SourceFiles:
		wrong(c.CertFile == "" || c.KeyFile == "", "source = \"files\" needs cert_file and key_file")
	case SourceACME:
		wrong(len(c.Names) == 0, "source = \"acme\" needs names")
		wrong(!c.ACME.Agree, "acme.agree_to_terms: the authority wants you to read and agree to its terms")
	default:
		wrong(true, "source %q: want own, files or acme", c.Source)
	}
	return errors.Join(errs...)
}

// Deps is what a source needs from others.
type Deps struct {
	// Issue makes a certificate of the group's own CA for the names; needed.
	Issue func(names []string) (tls.Certificate, error)
	// Names are the names of this server for Issue when Config has none.
	Names   []string
	KV      KV // ACME only: the agreed state
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer
}

// Source gives the doors their certificate.
type Source struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	current atomic.Pointer[tls.Certificate] // of files, or of the own CA
	acme    atomic.Pointer[acmeRun]         // while Run serves ACME
	warned  atomic.Int64                    // days of the last warning about the end
}

// New gets a first certificate, so that doors can open; Run keeps it fresh.
func New(cfg Config, deps Deps) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, kind.Errorf(kind.Invalid, "tls: %w", err)
	}
	if cfg.Source == "" {
		cfg.Source = SourceOwn
	}
	if cfg.Source == SourceACME && deps.KV == nil {
		return nil, kind.Errorf(kind.Invalid, "tls: ACME needs the agreed state")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, deps: deps, log: deps.Log.With("part", "certs")}
	s.warned.Store(never)
	if deps.Metrics != nil {
		deps.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "postern", Subsystem: "certificate",
			Name: "end_timestamp_seconds", Help: "When the certificate of the doors ends, Unix seconds."}, func() float64 { return float64(s.End().Unix()) }))
	}
	if cfg.Source == SourceFiles {
		c, err := loadFiles(cfg.CertFile, cfg.KeyFile)
		if err == nil {
			s.current.Store(c)
			return s, nil
		}
		deps.Events.Emit(eventUnusable, "certificate files cannot be used, showing one of the group's own CA: %v", err)
	}
	return s, s.issue()
}

// issue takes a new certificate from the own CA.
func (s *Source) issue() error {
	names := s.cfg.Names
	if len(names) == 0 {
		names = s.deps.Names
	}
	c, err := s.deps.Issue(names)
	if err != nil {
		return fmt.Errorf("tls: issue a certificate for %v: %w", names, err)
	}
	if err := parseLeaf(&c); err != nil {
		return err
	}
	s.current.Store(&c)
	return nil
}

func parseLeaf(c *tls.Certificate) error {
	if c.Leaf != nil {
		return nil
	}
	if len(c.Certificate) == 0 {
		return kind.Errorf(kind.Invalid, "tls: certificate is empty")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return fmt.Errorf("tls: read certificate: %w", err)
	}
	c.Leaf = leaf
	return nil
}

// TLS is the configuration for mail doors (STARTTLS and implicit TLS).
func (s *Source) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.get}
}

// HTTPS is the configuration for web doors.
func (s *Source) HTTPS() *tls.Config {
	c := s.TLS()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// get is called for each handshake.
func (s *Source) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if a := s.acme.Load(); a != nil {
		if c, err := a.magic.GetCertificate(hello); err == nil {
			return c, nil
		}
	}
	if c := s.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("no certificate")
}

// End tells when the certificate shown now ends.
func (s *Source) End() time.Time {
	if a := s.acme.Load(); a != nil {
		if end := a.end(s.cfg.Names); !end.IsZero() {
			return end
		}
	}
	if c := s.current.Load(); c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// look is how often certificates are looked at.
const look = 30 * time.Second

// Run keeps the certificate fresh until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	if s.cfg.Source == SourceACME {
		stop, err := s.startACME(ctx)
		if err != nil {
			return err
		}
		defer stop()
	}
	t := time.NewTicker(look)
	defer t.Stop()
	files := stamp(s.cfg.CertFile, s.cfg.KeyFile)
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if s.cfg.Source == SourceFiles {
				files = s.reload(files)
			}
			s.renewOwn(now)
			s.watchEnd(now)
		}
	}
}

// Reload takes up changed files at once.
func (s *Source) Reload() error {
	if s.cfg.Source != SourceFiles {
		return nil
	}
	c, err := loadFiles(s.cfg.CertFile, s.cfg.KeyFile)
	if err != nil {
		return err
	}
	s.current.Store(c)
	s.deps.Events.Emit(eventReplaced, "certificate of the doors was replaced, the new one ends %s", c.Leaf.NotAfter.Format(time.DateOnly))
	return nil
}

// renewOwn replaces a certificate of the own CA when a third of its life is
// left.
func (s *Source) renewOwn(now time.Time) {
	c := s.current.Load()
	if s.cfg.Source == SourceFiles || c == nil || now.Before(renewAt(c.Leaf)) {
		return
	}
	if err := s.issue(); err != nil {
		s.log.Warn("certificate was not renewed", "err", err) // watchEnd tells the operator in time
	}
}

func renewAt(leaf *x509.Certificate) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return leaf.NotAfter.Add(-life / 3)
}
