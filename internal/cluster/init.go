package cluster

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/view"
	"github.com/postern-mail/postern/internal/org"
)

// Keys of the room's own rows.
const (
	keyGroup   = "group"
	keyCACert  = "ca/cert"
	keyCAKey   = "ca/key"
	dirServers = "servers/"
	dirLive    = "live/"
	dirTokens  = "tokens/"
	dirRemoved = "removed/" // by identity
	dirLeaving = "leaving/" // by identity: is about to be removed
	// of the mailbox room; the view knows them too
	dirDatabases = "databases/"
)

// groupRow says which group the agreed state belongs to.
type groupRow struct {
	ID      string    `json:"id"`
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
}

// InitOptions say how to begin a group of one.
type InitOptions struct {
	Dir     string
	Name    org.ServerName
	Site    org.SiteName
	Addr    string // host:port at which the others will reach it
	Version string
	Volumes []org.VolumeName
	// External: the agreed state is in an etcd that the user runs.
	External        bool
	CertificateLife time.Duration // 0 = 90 days
}

// Init makes the data folder of a group of one: CA, group key, certificate and
// the first rows, which the first Run writes into the agreed state.
func Init(_ context.Context, o InitOptions) error {
	if err := checkServer(o.Name, o.Site, o.Addr); err != nil {
		return err
	}
	lock, err := newFolder(o.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	group := rand.Text()
	authority, err := ca.NewAuthority(group)
	if err != nil {
		return &kind.Error{Kind: kind.Internal, Text: "make ca", Err: err}
	}
	row := newRow(o.Name, o.Site, o.Addr, o.Version, o.Volumes)
	if !o.External {
		row.vote()
	}
	rows := map[string][]byte{keyGroup: mustJSON(groupRow{group, 1, row.Joined})}
	return found(o.Dir, founding{group: group, authority: authority, key: ca.NewGroupKey(), row: org.Server(row), rows: rows, life: o.CertificateLife})
}

func checkServer(name org.ServerName, site org.SiteName, addr string) error {
	if err := org.ValidName(string(name)); err != nil {
		return kind.Errorf(kind.Invalid, "server %w", err)
	}
	if site != "" {
		if err := org.ValidName(string(site)); err != nil {
			return kind.Errorf(kind.Invalid, "site %w", err)
		}
	}
	return checkAddr(addr)
}

// serverRow adds what this room does with a server's row.
type serverRow org.Server

func newRow(name org.ServerName, site org.SiteName, addr, version string, volumes []org.VolumeName) serverRow {
	return serverRow{Name: name, Identity: rand.Text(), Site: site, ClusterAddr: addr, Version: version, Volumes: volumes, Joined: time.Now().UTC()}
}

// vote makes the server a voting one.
func (r *serverRow) vote() {
	r.Voter = true
	r.PeerURL = "https://" + r.ClusterAddr
}

// founding is what the first server of a group begins with.
type founding struct {
	group     string
	authority *ca.Authority
	key       []byte
	row       org.Server
	rows      map[string][]byte // further rows
	life      time.Duration
}

// found writes the data folder of a group's first server.
func found(dir string, f founding) error {
	or(&f.life, 90*24*time.Hour)
	sealed, err := f.authority.Seal(f.key)
	if err != nil {
		return err
	}
	bundle, err := selfSign(f.authority, f.row, f.life)
	if err != nil {
		return err
	}
	f.rows[keyCACert] = f.authority.Certificate().Raw
	f.rows[keyCAKey] = sealed
	f.rows[dirServers+string(f.row.Name)] = mustJSON(f.row)
	return material{
		self:     self{Format: folderFormat, Group: f.group, Name: f.row.Name, Identity: f.row.Identity, Addr: f.row.ClusterAddr, Witness: f.row.Witness},
		groupKey: f.key,
		bundle:   bundle,
		ca:       f.authority.Certificate(),
		first:    view.Encode(f.group, viewOf(f.rows)),
	}.write(dir)
}

func viewOf(rows map[string][]byte) *view.View {
	return view.New(0, func(yield func(string, view.Item) bool) {
		for _, k := range slices.Sorted(maps.Keys(rows)) {
			if !yield(k, view.Item{Value: rows[k]}) {
				return
			}
		}
	})
}

// selfSign issues a certificate to a server whose authority we hold.
func selfSign(a *ca.Authority, row org.Server, life time.Duration) ([]byte, error) {
	key, csr, err := ca.Request()
	if err != nil {
		return nil, err
	}
	der, err := a.Issue(csr, subjectOf(row), life)
	if err != nil {
		return nil, err
	}
	return ca.Bundle(der, a.Certificate(), key), nil
}

func subjectOf(row org.Server) ca.Subject {
	host, _, _ := net.SplitHostPort(row.ClusterAddr)
	return ca.Subject{Name: row.Name, Identity: row.Identity, Host: host, Also: ownHosts(row)}
}

// CAFile is the path of the group's CA certificate (PEM) in a data folder.
func CAFile(dir string) string { return filepath.Join(dir, caFile) }

// ForceNew prepares a stopped server, whose group has lost its quorum for
// good, to be a group of one at its next start: it keeps the agreed state as
// far as this server has it, and all other members have to join anew. Never
// use it while another member may still be running.
func ForceNew(dir string) error {
	lock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := readFolder(dir); err != nil {
		return err
	}
	if !fileExists(filepath.Join(dir, etcdDir)) {
		return kind.WithHint(kind.Errorf(kind.Invalid, "server in %s does not vote and keeps no agreed state of its own", dir), "use a voting server, or restore a backup")
	}
	return writeFile(filepath.Join(dir, forceFile), []byte("1\n"))
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only types of this package and of org, which encode
	}
	return b
}

func readSnapshot(path, group string) (*view.View, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	g, v, err := view.Decode(b)
	if err != nil {
		return nil, err
	}
	if g != group {
		return nil, kind.Errorf(kind.Invalid, "snapshot %s is of group %s, not %s", path, g, group)
	}
	return v, nil
}

func parseCA(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, kind.Errorf(kind.Corrupt, "ca certificate: %w", err)
	}
	return cert, nil
}
