package certs

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

func TestStorageFiles(t *testing.T) {
	ctx := t.Context()
	s := newStorage(ctx, newKV())
	for _, k := range []string{"a/b/one", "a/b/two", "a/three", "ab/four"} {
		if err := s.Store(ctx, k, []byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := s.Load(ctx, "a/b/one"); err != nil || string(b) != "a/b/one" {
		t.Fatal(string(b), err)
	}
	if _, err := s.Load(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if got, err := s.List(ctx, "a", false); err != nil || !slices.Equal(got, []string{"a/b", "a/three"}) {
		t.Fatal(got, err)
	}
	if got, err := s.List(ctx, "a", true); err != nil || !slices.Equal(got, []string{"a/b", "a/b/one", "a/b/two", "a/three"}) {
		t.Fatal(got, err)
	}
	if _, err := s.List(ctx, "z", false); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if st, err := s.Stat(ctx, "a/b"); err != nil || st.IsTerminal {
		t.Fatal(st, err)
	}
	if st, err := s.Stat(ctx, "a/three"); err != nil || !st.IsTerminal || st.Size != 7 || st.Modified.IsZero() {
		t.Fatal(st, err)
	}
	if _, err := s.Stat(ctx, "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if s.Exists(ctx, "a/b/one") || s.Exists(ctx, "a") || !s.Exists(ctx, "ab/four") {
		t.Fatal("delete took the wrong keys")
	}
}

// Two servers want one lock: the second waits for as long as the first holds
// it, however long that is.
func TestLockIsHeldByTouching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newKV()
		ctx, cancel := context.WithCancel(t.Context())
		one, two := newStorage(ctx, kv), newStorage(ctx, kv)
		defer two.close()
		defer one.close()
		defer cancel()
		if err := one.Lock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		short, stop := context.WithTimeout(ctx, 10*time.Minute)
		defer stop()
		if err := two.Lock(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := one.Unlock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if err := two.Lock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if err := one.Unlock(ctx, "x"); err == nil {
			t.Fatal("a lock that is not held was let go")
		}
		if err := two.Unlock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if keys, _ := kv.List(ctx, ""); len(keys) != 0 {
			t.Fatal("rows left", keys)
		}
	})
}

// A server dies with the lock: another takes it over after the stale time.
func TestLockOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newKV()
		ctx, cancel := context.WithCancel(t.Context())
		dead, die := context.WithCancel(ctx)
		one, two := newStorage(dead, kv), newStorage(ctx, kv)
		defer two.close()
		defer cancel()
		if err := one.Lock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		die()
		one.close()
		begin := time.Now()
		if err := two.Lock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < two.stale || took > 2*two.stale {
			t.Fatal("taken over after", took)
		}
	})
}

// A holder that could not touch its lock for long neither touches nor removes the
// row of the one that took it over.
func TestLockThatWasTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newKV()
		ctx, cancel := context.WithCancel(t.Context())
		cut := &cutKV{memKV: kv}
		one, two := newStorage(ctx, cut), newStorage(ctx, kv)
		defer two.close()
		defer one.close()
		defer cancel()
		if err := one.Lock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		cut.off.Store(true)
		if err := two.Lock(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		row, _, _ := kv.Get(ctx, lockPrefix+"x")
		cut.off.Store(false)
		short, stop := context.WithTimeout(ctx, 2*one.renew)
		defer stop()
		<-short.Done() // the first one would have touched it
		if b, _, err := kv.Get(ctx, lockPrefix+"x"); err != nil || string(b) != string(row) {
			t.Errorf("the row is %q, it was %q: %v", b, row, err)
		}
		if err := one.Unlock(ctx, "x"); !kind.Is(err, kind.Conflict) {
			t.Errorf("unlock what was taken over: %v", err)
		}
		if b, _, err := kv.Get(ctx, lockPrefix+"x"); err != nil || string(b) != string(row) {
			t.Errorf("the new holder's row is gone: %q, %v", b, err)
		}
		if err := two.Unlock(ctx, "x"); err != nil {
			t.Error(err)
		}
		if keys, _ := kv.List(ctx, ""); len(keys) != 0 {
			t.Error("rows left", keys)
		}
	})
}
