package patient

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFailingFlushDoesNotSpin: a store whose disk refuses every new file tries
// its flush a few times a second, and goes on when the disk does.
func TestFailingFlushDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		var tries atomic.Int32
		disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && op.Kind == errorfs.OpCreate {
				tries.Add(1)
				return errors.New("input/output error")
			}
			return nil
		}))
		db, err := pebble.Open("db", &pebble.Options{FS: FS(disk), DisableWAL: true, Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Set([]byte("key"), []byte("value"), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		broken.Store(true)
		done, err := db.AsyncFlush()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if n := tries.Load(); n < 10 || n > 101 {
			t.Errorf("%d tries in 10 s", n)
		}
		broken.Store(false)
		<-done
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// quiet is a store's log that nobody reads.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}
