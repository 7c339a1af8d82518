package mailbox

import (
	"io/fs"
	"syscall"
)

// diskSize is what a file takes on disk, holes not counted.
func diskSize(i fs.FileInfo) int64 {
	if st, ok := i.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return i.Size()
}
