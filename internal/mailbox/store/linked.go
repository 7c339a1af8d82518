package store

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// CloneCheckpoint makes another copy, in dir, of what Checkpoint wrote to from,
// so that the first stays as it is while the second is opened and changed. dir
// must not exist.
func CloneCheckpoint(fs vfs.FS, from, dir string) (err error) {
	names, err := fs.List(from)
	if err != nil {
		return wrap(err, "clone")
	}
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return wrap(err, "clone")
	}
	for _, n := range names {
		// Tables never change; what describes them does.
		do := vfs.Copy
		if strings.HasSuffix(n, ".sst") || strings.HasSuffix(n, ".blob") {
			do = vfs.LinkOrCopy
		}
		if cerr := do(fs, fs.PathJoin(from, n), fs.PathJoin(dir, n)); cerr != nil {
			return wrap(errors.Join(cerr, fs.RemoveAll(dir)), "clone")
		}
	}
	return nil
}
