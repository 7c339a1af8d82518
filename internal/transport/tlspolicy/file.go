package tlspolicy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
)

// maxStored bounds a stored policy in bytes.
const maxStored = 128 << 10

// Files keeps policies in a folder, a file for each domain. It is safe for
// concurrent use, as each domain is renewed by one caller at a time.
type Files struct {
	fs  fsx.FS
	dir string
	log *slog.Logger
	now func() time.Time
}

// NewFiles is the store in a folder, which is made where it is not there.
// Policies that are over are removed.
func NewFiles(fs fsx.FS, dir string, log *slog.Logger) (*Files, error) {
	f := &Files{fs: fs, dir: dir, log: log, now: time.Now}
	if err := fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if _, _, err := f.read(filepath.Join(dir, n)); err != nil {
			if err := fs.Remove(filepath.Join(dir, n)); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

func (f *Files) path(domain string) string {
	sum := sha256.Sum256([]byte(domain))
	return filepath.Join(f.dir, hex.EncodeToString(sum[:16]))
}

// read reads a file: a line with a checksum of the rest, the domain's name and
// the end of the policy, then the policy.
func (f *Files) read(path string) (domain string, policy []byte, err error) {
	b, err := fsx.ReadFile(f.fs, path, maxStored)
	if err != nil {
		return "", nil, err
	}
	head, policy, ok := bytes.Cut(b, []byte("\n"))
	var sum uint32
	var until int64
	if n, err := fmt.Sscanf(string(head), "mta-sts 1 %08x %d %s", &sum, &until, &domain); !ok || err != nil || n != 3 {
		return "", nil, kind.Errorf(kind.Corrupt, "stored policy %s cannot be read", path)
	}
	if sum != checksum(domain, until, policy) {
		return "", nil, kind.Errorf(kind.Corrupt, "stored policy of %s is damaged", domain)
	}
	if f.now().Unix() >= until {
		return "", nil, kind.Errorf(kind.NotFound, "stored policy of %s is over", domain)
	}
	return domain, policy, nil
}

func checksum(domain string, until int64, policy []byte) uint32 {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	fmt.Fprintf(h, "%s %d\n", domain, until)
	h.Write(policy)
	return h.Sum32()
}

// LoadPolicy implements Store.
func (f *Files) LoadPolicy(domain string) ([]byte, bool) {
	name, policy, err := f.read(f.path(domain))
	if err != nil && !kind.Is(err, kind.NotFound) {
		f.log.Warn("MTA-STS policy", "domain", domain, "err", err)
	}
	return policy, err == nil && name == domain
}

// SavePolicy implements Store.
func (f *Files) SavePolicy(domain string, policy []byte, until time.Time) {
	b := fmt.Appendf(nil, "mta-sts 1 %08x %d %s\n", checksum(domain, until.Unix(), policy), until.Unix(), domain)
	err := fsx.WriteFile(f.fs, f.path(domain), append(b, policy...))
	if err == nil {
		err = f.fs.SyncDir(f.dir)
	}
	if err != nil {
		f.log.Warn("MTA-STS policy is not kept over a restart", "domain", domain, "err", err)
	}
}
