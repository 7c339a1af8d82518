package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
)

// The operator events of this package.
var (
	eventReplaced = event.Define(1540, "certificate_replaced", slog.LevelInfo, "The doors show a new certificate.", "")
	eventUnusable = event.Define(1541, "certificate_unusable", slog.LevelError,
		"The certificate files cannot be used; the last good certificate, or one of the group's own CA, is shown.",
		"Look at the reason in the event, mend the files; they are read again by themselves.")
	eventEnding = event.Define(1542, "certificate_ending", slog.LevelWarn,
		"The certificate of the doors ends soon and was not renewed.",
		"Renew the files, or look at the events of the ACME authority.")
	eventFailed = event.Define(1543, "certificate_not_obtained", slog.LevelError,
		"The ACME authority gave no certificate; it is tried again.",
		"Check that the names point to these servers and that port 80 is open to the world.")
	eventChallenge = event.Define(1544, "certificate_challenge_port", slog.LevelError,
		"The address for HTTP challenges of the ACME authority cannot be opened.",
		"Free the address of tls.acme.http_listen or let another server of the group answer.")
)

const never = math.MaxInt64

// due says how many days before its end a warning is due, and which: a
// certificate warns 21, 7 and 1 days before, one of short life first when a
// fifth of it is left, by when it should have been renewed.
func due(now, begin, end time.Time) (days int64, is bool) {
	left := end.Sub(now)
	if fifth := end.Sub(begin) / 5; left > fifth {
		return 0, false
	}
	for _, d := range []int64{0, 1, 7, 21} {
		if left <= time.Duration(d)*24*time.Hour {
			return d, true
		}
	}
	return 0, false
}

// watchEnd warns once for each mark that is passed.
func (s *Source) watchEnd(now time.Time) {
	begin, end := s.life()
	days, is := due(now, begin, end)
	switch {
	case !is:
		s.warned.Store(never)
	case days < s.warned.Load():
		s.warned.Store(days)
		s.deps.Events.Emit(eventEnding, "certificate of the doors ends %s, in %s", end.Format(time.DateTime), end.Sub(now).Round(time.Minute))
	}
}

// life is of the certificate shown now.
func (s *Source) life() (begin, end time.Time) {
	if leaf := s.Leaf(); leaf != nil {
		return leaf.NotBefore, leaf.NotAfter
	}
	return time.Time{}, time.Time{}
}

// loadFiles reads a pair that fits together.
func loadFiles(cert, key string) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("tls: load %s and %s: %w", cert, key, err)
	}
	return &c, parseLeaf(&c)
}

// fileStamp tells whether a file may have changed.
type fileStamp struct {
	time time.Time
	size int64
}

// stamp looks at files; one that cannot be seen has the zero stamp.
func stamp(names ...string) [2]fileStamp {
	var out [2]fileStamp
	for i, n := range names {
		if fi, err := os.Stat(n); err == nil {
			out[i] = fileStamp{fi.ModTime(), fi.Size()}
		}
	}
	return out
}

// reload takes up files that have changed since before. A pair in the middle
// of being replaced does not fit together and is read again at the next look.
func (s *Source) reload(before [2]fileStamp) [2]fileStamp {
	now := stamp(s.cfg.CertFile, s.cfg.KeyFile)
	if now == before {
		return before
	}
	if err := s.Reload(); err != nil {
		s.deps.Events.Emit(eventUnusable, "certificate files were changed but cannot be used: %v", err)
	}
	return now
}

// Leaf is the certificate shown now, nil for none.
func (s *Source) Leaf() *x509.Certificate {
	if a := s.acme.Load(); a != nil {
		if leaf := a.leaf(s.cfg.Names); leaf != nil {
			return leaf
		}
	}
	if c := s.current.Load(); c != nil {
		return c.Leaf
	}
	return nil
}
