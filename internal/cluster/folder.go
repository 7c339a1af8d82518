package cluster

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/org"
)

// The files of a data folder. All are 0600 in a folder of 0700.
const (
	serverFile   = "server.json" // who this server is; written last, so it makes a folder complete
	groupKeyFile = "group.key"   // 32 bytes that open the CA key
	bundleFile   = "server.pem"  // certificate, CA certificate, key
	caFile       = "ca.pem"      // the CA certificate alone, for clients and etcd
	viewFile     = "view.snap"   // the last known agreed state
	firstFile    = "first.snap"  // rows to write into a new, empty agreed state
	forceFile    = "force-new"   // make a group of one at the next start
	lockFile     = "lock"
	etcdDir      = "etcd"
)

const folderFormat = 1

// self is who this server is, as kept in its data folder.
type self struct {
	Format   int            `json:"format"`
	Group    string         `json:"group"`
	Name     org.ServerName `json:"name"`
	Identity string         `json:"identity"`
	Addr     string         `json:"cluster_addr"`
	Witness  bool           `json:"witness,omitempty"`
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Exists tells whether dir is a complete data folder.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, serverFile))
	return err == nil
}

// lockFolder makes sure that one process at a time uses the folder.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, kind.Errorf(kind.Busy, "lock %s: another process uses this data folder", dir)
		}
		return nil, err
	}
	return f, nil
}

// newFolder locks a folder that must not be a server's yet.
func newFolder(dir string) (*os.File, error) {
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	if Exists(dir) || fileExists(filepath.Join(dir, etcdDir)) {
		lock.Close()
		return nil, kind.WithHint(kind.Errorf(kind.Exists, "data folder %s belongs to a server already", dir), "use an empty folder, or start the server that is in it")
	}
	return lock, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// material is what a data folder begins with.
type material struct {
	self     self
	groupKey []byte
	bundle   []byte
	ca       *x509.Certificate
	view     []byte // snapshot bytes for viewFile, or nil
	first    []byte // snapshot bytes for firstFile, or nil
}

func (m material) write(dir string) error {
	id, err := json.MarshalIndent(m.self, "", "  ")
	if err != nil {
		return err
	}
	files := []struct {
		name string
		b    []byte
	}{
		{groupKeyFile, m.groupKey},
		{bundleFile, m.bundle},
		{caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.ca.Raw})},
		{viewFile, m.view},
		{firstFile, m.first},
		{serverFile, append(id, '\n')},
	}
	for _, f := range files {
		if f.b == nil {
			continue
		}
		if err := writeFile(filepath.Join(dir, f.name), f.b); err != nil {
			return &kind.Error{Kind: kind.Internal, Text: "write data folder", Err: err}
		}
	}
	return nil
}

// readFolder reads what a server has to know before it starts.
func readFolder(dir string) (m material, err error) {
	b, err := os.ReadFile(filepath.Join(dir, serverFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, kind.WithHint(kind.Errorf(kind.NotFound, "data folder %s holds no server", dir), "postern init for a new group, postern join for a new member")
	}
	if err == nil {
		err = json.Unmarshal(b, &m.self)
	}
	if err != nil {
		return m, &kind.Error{Kind: kind.Corrupt, Text: "read " + serverFile, Err: err}
	}
	if m.self.Format != folderFormat {
		return m, kind.Errorf(kind.Invalid, "data folder %s has format %d, this program reads %d", dir, m.self.Format, folderFormat)
	}
	if m.groupKey, err = os.ReadFile(filepath.Join(dir, groupKeyFile)); err != nil {
		return m, &kind.Error{Kind: kind.Corrupt, Text: "read group key", Err: err}
	}
	if len(m.groupKey) != ca.GroupKeySize {
		return m, kind.Errorf(kind.Corrupt, "read group key: %d bytes, want %d", len(m.groupKey), ca.GroupKeySize)
	}
	if m.bundle, err = os.ReadFile(filepath.Join(dir, bundleFile)); err != nil {
		return m, &kind.Error{Kind: kind.Corrupt, Text: "read server certificate", Err: err}
	}
	return m, nil
}

// ServerOf tells the name of the server that a data folder of the group belongs to.
// It only reads. NotFound where there is none.
func ServerOf(dir string) (org.ServerName, error) {
	m, err := readFolder(dir)
	return m.self.Name, err
}
