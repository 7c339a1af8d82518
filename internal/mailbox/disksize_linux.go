package mailbox

import (
	"io/fs"
	"syscall"
)

// diskSize is what a file takes on disk, holes not counted. A file with several
// names, as in checkpoints, counts in parts for each of them.
func diskSize(i fs.FileInfo) int64 {
	if st, ok := i.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 / max(1, int64(st.Nlink))
	}
	return i.Size()
}
