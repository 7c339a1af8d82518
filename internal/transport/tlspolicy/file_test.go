package tlspolicy

import (
	"log/slog"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
)

func TestFiles(t *testing.T) {
	disk := fsx.NewMem()
	open := func(fs fsx.FS) *Files {
		f, err := NewFiles(fs, "mta-sts", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open(disk)
	if _, ok := f.LoadPolicy("a.test"); ok {
		t.Error("a policy that nobody saved")
	}
	f.SavePolicy("a.test", []byte("policy of a"), time.Now().Add(time.Hour))
	f.SavePolicy("b.test", []byte("policy of b"), time.Now().Add(-time.Hour))
	after := open(disk.CrashImage(1)) // the power fails
	if b, ok := after.LoadPolicy("a.test"); !ok || string(b) != "policy of a" {
		t.Errorf("%q %v", b, ok)
	}
	if _, ok := after.LoadPolicy("b.test"); ok {
		t.Error("a policy that is over holds")
	}
	names, err := after.fs.List("mta-sts")
	if err != nil || len(names) != 1 {
		t.Errorf("files %v, %v", names, err)
	}
	if err := disk.Flip(f.path("a.test"), 40, 0xff); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.LoadPolicy("a.test"); ok {
		t.Error("a damaged policy is believed")
	}
}
