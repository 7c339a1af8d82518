package mailbox

import (
	"context"
	"io/fs"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// vanishing is a disk that may be taken out.
type vanishing struct {
	*fsx.Mem
	gone atomic.Bool
}

func (v *vanishing) Free(path string) (free, total int64, err error) {
	if v.gone.Load() {
		return 0, 0, kind.Errorf(kind.NotFound, "statfs %s: %w", path, fs.ErrNotExist)
	}
	return v.Mem.Free(path)
}

// TestVanishedDisk: what a disk that is gone cannot do is tried again. Said to be
// not found, it would be the mailbox that is not there, and its mail returned.
func TestVanishedDisk(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	d := newDisks()
	disk := &vanishing{Mem: d.fs}
	k := startOn(t, g.server("MBX1"), testConfig(), Deps{FS: disk, IndexFS: d.ix})
	at := org.MailboxRef{ID: org.MailboxID{1}, Database: "DB01"}
	if err := k.Client().Setup(t.Context(), at, mail.MailboxSetup{Organization: "acme"}); err != nil {
		t.Fatal(err)
	}
	disk.gone.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := k.Client().Deliver(ctx, mail.Delivery{Recipients: []mail.Recipient{{Mailbox: at}}, Body: body(1), Identity: [32]byte{7}})
	if !kind.Is(err, kind.Busy) {
		t.Errorf("%v (%v), want Busy", err, kind.Of(err))
	}
}
