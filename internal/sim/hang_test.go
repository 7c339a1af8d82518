package sim

import (
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// hangingDisk is this machine's disk, whose syncs do not return while it hangs.
type hangingDisk struct {
	fsx.FS
	mu      sync.Mutex // guards the rest
	hung    chan struct{}
	waiting int // syncs that hang
}

func (d *hangingDisk) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hung = make(chan struct{})
}

func (d *hangingDisk) hangs() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting > 0
}

func (d *hangingDisk) goOn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hung != nil {
		close(d.hung)
		d.hung = nil
	}
}

func (d *hangingDisk) OpenFile(path string, mode fsx.Mode) (fsx.File, error) {
	f, err := d.FS.OpenFile(path, mode)
	if err != nil {
		return nil, err
	}
	return hangingFile{f, d}, nil
}

func (d *hangingDisk) Create(path string) (fsx.File, error) {
	return d.OpenFile(path, fsx.Write|fsx.New)
}

type hangingFile struct {
	fsx.File
	d *hangingDisk
}

func (f hangingFile) Sync() error {
	f.d.mu.Lock()
	hung := f.d.hung
	if hung != nil {
		f.d.waiting++
	}
	f.d.mu.Unlock()
	if hung != nil {
		<-hung
	}
	return f.File.Sync()
}

// of gives the disk to one server.
func (d *hangingDisk) of(server org.ServerName) Options {
	return Options{Disk: func(s org.ServerName) fsx.FS {
		if s == server {
			return d
		}
		return fsx.OS{}
	}}
}

// TestHungActiveDisk: the active copy's disk answers nothing while its server
// lives. Another copy takes over, and what was asked meanwhile is done once.
func TestHungActiveDisk(t *testing.T) {
	disk := &hangingDisk{FS: fsx.OS{}}
	w := started(t, disk.of("MBX1"))
	t.Cleanup(disk.goOn)
	if m := w.mount(1, "DB01"); m.Active != "MBX1" {
		t.Fatalf("active on %s", m.Active)
	}
	disk.hang()
	for i := range 5 {
		if err := w.Server(2).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if m := w.mount(2, "DB01"); m.Active == "MBX1" {
		t.Error("the copy on the hung disk is still active")
	}
	disk.goOn()
	w.inSync(t, 2, "DB01", 3)
	w.Server(1).holdsOnce(t, 5)
	w.mustRun(t, 1, "copy verify", `{"bodies":true}`)
}

// TestHungDisk: the server of the only other copy lives, but its disk answers
// nothing. That may not stop the database for good, and it is a full copy
// again when the disk is back.
func TestHungDisk(t *testing.T) {
	disk := &hangingDisk{FS: fsx.OS{}}
	w := world(t, disk.of("MBX2"))
	t.Cleanup(disk.goOn)
	w.mustRun(t, 1, "database create", `{"database":"DB01","servers":"MBX1,MBX2"}`)
	w.inSync(t, 3, "DB01", 2)
	if err := w.Server(1).Store().Setup(t.Context(), box, mail.MailboxSetup{Organization: "o1"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Server(3).append(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	// The log marks its end when it comes to rest: the disk hangs before
	// anybody waits for it.
	disk.hang()
	eventually(t, "the disk hangs", disk.hangs)
	for i := 1; i < 5; i++ {
		if err := w.Server(3).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if w.mount(1, "DB01").AloneSince == nil {
		t.Error("nobody noted that changes were confirmed on one copy")
	}
	disk.goOn()
	w.inSync(t, 1, "DB01", 2)
	w.Server(3).holdsOnce(t, 5)
	w.mustRun(t, 1, "copy verify", `{"bodies":true}`)
}
