package node

import (
	"context"
	"crypto/tls"
	"iter"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/audit"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Rooms that do not know each other meet here: each declares the small
// interface it needs, and these types answer it with what another room offers.

// adminState is the agreed state as the admin door wants it.
type adminState struct{ c *cluster.Cluster }

func (s adminState) Write(ctx context.Context, w []audit.Write) error {
	var t cluster.Txn
	for _, x := range w {
		t.Then = append(t.Then, cluster.Op{Key: x.Key, Value: x.Value, Delete: x.Value == nil})
	}
	_, err := s.c.Commit(ctx, t)
	return err
}

func (s adminState) Prefix(p string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for k, it := range s.c.View().Prefix(p) {
			if !yield(k, it.Value) {
				return
			}
		}
	}
}

func (s adminState) Get(key string) ([]byte, bool) {
	it, ok := s.c.View().Get(key)
	return it.Value, ok
}

// certState is the agreed state as ACME wants it.
type certState struct{ c *cluster.Cluster }

func (s certState) Get(ctx context.Context, key string) ([]byte, int64, error) {
	if err := s.c.Sync(ctx); err != nil {
		return nil, 0, err
	}
	it, ok := s.c.View().Get(key)
	if !ok {
		return nil, 0, kind.Errorf(kind.NotFound, "%s does not exist", key)
	}
	return it.Value, it.Revision, nil
}

func (s certState) Put(ctx context.Context, key string, value []byte, revision int64) error {
	t := cluster.Txn{Then: []cluster.Op{{Key: key, Value: value}}}
	if revision >= 0 {
		t.If = []cluster.Cond{{Key: key, Revision: revision}}
	}
	_, err := s.c.Commit(ctx, t)
	return err
}

func (s certState) Delete(ctx context.Context, key string, revision int64) error {
	t := cluster.Txn{Then: []cluster.Op{{Key: key, Delete: true}}}
	if revision >= 0 {
		t.If = []cluster.Cond{{Key: key, Revision: revision}}
	}
	_, err := s.c.Commit(ctx, t)
	return err
}

func (s certState) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.c.Sync(ctx); err != nil {
		return nil, err
	}
	var keys []string
	for k := range s.c.View().Prefix(prefix) {
		keys = append(keys, k)
	}
	return keys, nil
}

// adminLogins lets the admin door ask the directory.
type adminLogins struct{ d *directory.Directory }

func adminAccount(a directory.Account) api.Account {
	return api.Account{Login: a.Name, Organization: a.Organization, Roles: a.Roles, ServerAdmin: a.ServerAdmin,
		Stamp: strconv.FormatInt(a.Stamp, 10)}
}

// Authenticate checks a password.
func (l adminLogins) Authenticate(ctx context.Context, login, password, _ string, remote netip.Addr) (api.Account, error) {
	a, err := l.d.Authenticate(ctx, login, password, directory.ServiceAdmin, remote)
	if err != nil {
		return api.Account{}, err
	}
	return adminAccount(a), nil
}

// Account tells the present roles of somebody who has logged in before.
func (l adminLogins) Account(_ context.Context, login string) (api.Account, error) {
	a, ok := l.d.Account(login)
	if !ok {
		return api.Account{}, kind.Errorf(kind.NotFound, "account %s is gone", login)
	}
	return adminAccount(a), nil
}

// organizationOf answers the admin door's question of scope.
func organizationOf(d *directory.Directory) func(scope, value string) (org.OrganizationID, bool) {
	return func(scope, value string) (org.OrganizationID, bool) {
		if scope == command.ScopeDomain {
			return d.OrganizationOf(value)
		}
		a, err := mail.ParseAddress(value)
		if err != nil {
			return "", false
		}
		return d.OrganizationOf(a.Domain)
	}
}

// clientCertificate is the certificate that a connector shows to another
// system: the files NAME.crt and NAME.key of the folder certificates in the data
// folder, read anew for each connection so that a renewal needs no restart.
func (w *mailWorker) clientCertificate(name string) (*tls.Certificate, error) {
	if err := org.ValidName(name); err != nil {
		return nil, kind.Errorf(kind.Invalid, "client certificate: %w", err)
	}
	base := filepath.Join(w.cfg.Dir, certFolder, name)
	c, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	if err != nil {
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "client certificate %s: %w", name, err), "put "+name+".crt and "+name+".key into the folder "+certFolder+" of the data folder")
	}
	return &c, nil
}
