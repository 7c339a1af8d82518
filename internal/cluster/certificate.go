package cluster

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
)

// authority opens the group's CA from the agreed state with the group key.
func (c *Cluster) authority() (*ca.Authority, error) {
	it, ok := c.View().Get(keyCAKey)
	if !ok {
		return nil, kind.Errorf(kind.Busy, "the group's ca key is not known here yet")
	}
	return ca.Open(c.ca, it.Value, c.groupKey)
}

// keepCertificate renews this server's certificate at two thirds of its life.
// It needs the view only, so it works without quorum.
func (c *Cluster) keepCertificate(ctx context.Context) error {
	for ctx.Err() == nil {
		leaf := c.cert.Load().Leaf
		until, _ := leaf.NotAfter.UTC().MarshalText() // a certificate's years fit
		c.Publish(sectionCertificate, until)
		due := time.Until(ca.RenewAt(leaf))
		members := c.membersChanged()
		if row, ok := c.View().Server(c.self.Name); due > 0 && (!ok || named(leaf, ownHosts(row))) {
			// Look again from time to time: wall clocks move.
			t := time.NewTimer(min(due, time.Hour))
			select {
			case <-ctx.Done():
			case <-members: // a new interface wants its address in it
			case <-t.C:
			}
			t.Stop()
			continue
		}
		if err := c.renew(); err != nil {
			c.events.Emit(evRenewal, "certificate of %s, valid until %s, is not renewed: %v", c.self.Name, leaf.NotAfter.Format(time.RFC3339), err)
			sleep(ctx, min(time.Minute, c.cfg.CertificateLife/20))
			continue
		}
		c.events.Emit(evRenewed, "certificate of %s renewed until %s", c.self.Name, c.cert.Load().Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// named tells whether a certificate holds for all of these addresses.
func named(leaf *x509.Certificate, hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(h string) bool { return leaf.VerifyHostname(h) != nil })
}

// renew issues a new certificate, stores it and uses it from the next
// connection on. etcd reads the file at each handshake.
func (c *Cluster) renew() error {
	row, ok := c.View().Server(c.self.Name)
	if !ok || row.Identity != c.self.Identity {
		return kind.Errorf(kind.Denied, "renew certificate: %s is not a member of the group", c.self.Name)
	}
	authority, err := c.authority()
	if err != nil {
		return err
	}
	bundle, err := selfSign(authority, row, c.cfg.CertificateLife)
	if err != nil {
		return err
	}
	cert, _, err := ca.ParseBundle(bundle)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(c.cfg.Dir, bundleFile), bundle); err != nil {
		return err
	}
	c.cert.Store(&cert)
	return nil
}
