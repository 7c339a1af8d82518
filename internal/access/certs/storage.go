package certs

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/postern-mail/postern/internal/base/kind"
)

// KV is the part of the agreed state that ACME needs. A revision changes with
// each Put of a key.
type KV interface {
	// Get answers kind.NotFound for a key that is not there. It is as new as
	// any change that was answered before the call.
	Get(ctx context.Context, key string) (value []byte, revision int64, err error)
	// Put writes when the key has the revision: 0 must not exist, -1 any.
	// kind.Conflict otherwise.
	Put(ctx context.Context, key string, value []byte, revision int64) error
	// Delete removes when the key has the revision, -1 any; one that is not
	// there is no error.
	Delete(ctx context.Context, key string, revision int64) error
	// List gives all keys with the prefix.
	List(ctx context.Context, prefix string) ([]string, error)
}

const (
	filePrefix = "acme/files/"
	lockPrefix = "acme/locks/"
)

// storage is certmagic.Storage over the agreed state.
type storage struct {
	kv    KV
	ctx   context.Context // of Run: locks are renewed while it lives
	renew time.Duration   // how often a lock that is held is touched
	stale time.Duration   // a lock not touched for so long is taken over
	poll  time.Duration   // how often a waiter looks

	mu   sync.Mutex // guards held
	held map[string]heldLock
	wg   sync.WaitGroup
}

// heldLock is a lock of this server.
type heldLock struct {
	mine  string // the value of its row; another one is another holder's
	letGo func() // ends the touching and waits for it
}

var _ certmagic.Storage = (*storage)(nil)

func newStorage(ctx context.Context, kv KV) *storage {
	return &storage{kv: kv, ctx: ctx, renew: 10 * time.Second, stale: time.Minute, poll: time.Second, held: map[string]heldLock{}}
}

// file is a stored value with what Stat tells.
type file struct {
	Modified time.Time `json:"modified"`
	Value    []byte    `json:"value"`
}

// Store implements certmagic.Storage.
func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	b, err := json.Marshal(file{time.Now(), value})
	if err != nil {
		return err
	}
	return s.kv.Put(ctx, filePrefix+key, b, -1)
}

func (s *storage) load(ctx context.Context, key string) (f file, err error) {
	b, _, err := s.kv.Get(ctx, filePrefix+key)
	if kind.Is(err, kind.NotFound) {
		return f, fs.ErrNotExist
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	return f, err
}

// Load implements certmagic.Storage.
func (s *storage) Load(ctx context.Context, key string) ([]byte, error) {
	f, err := s.load(ctx, key)
	return f.Value, err
}

// Delete implements certmagic.Storage: the key and all below it.
func (s *storage) Delete(ctx context.Context, key string) error {
	below, err := s.kv.List(ctx, filePrefix+key+"/")
	if err != nil {
		return err
	}
	for _, k := range append(below, filePrefix+key) {
		if err := s.kv.Delete(ctx, k, -1); err != nil {
			return err
		}
	}
	return nil
}

// Exists implements certmagic.Storage.
func (s *storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List implements certmagic.Storage.
func (s *storage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	base := path
	if base != "" {
		base += "/"
	}
	keys, err := s.kv.List(ctx, filePrefix+base)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fs.ErrNotExist
	}
	var out []string
	seen := map[string]bool{}
	add := func(k string) {
		if !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	for _, k := range keys {
		rest := strings.TrimPrefix(k, filePrefix+base)
		parts := strings.Split(rest, "/")
		if !recursive {
			add(base + parts[0])
			continue
		}
		for i := range parts {
			add(base + strings.Join(parts[:i+1], "/"))
		}
	}
	return out, nil
}

// Stat implements certmagic.Storage.
func (s *storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	f, err := s.load(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: f.Modified, Size: int64(len(f.Value)), IsTerminal: true}, nil
	}
	below, lerr := s.kv.List(ctx, filePrefix+key+"/")
	if lerr == nil && len(below) > 0 {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, err
}

// Lock implements certmagic.Locker. The holder touches its row; who sees a row
// untouched for long, by its own clock alone, takes it over.
func (s *storage) Lock(ctx context.Context, name string) error {
	key, mine := lockPrefix+name, rand.Text()
	var seen int64 // revision of the holder's row
	since := time.Now()
	t := time.NewTicker(s.poll)
	defer t.Stop()
	for {
		err := s.kv.Put(ctx, key, []byte(mine), 0)
		if kind.Is(err, kind.Conflict) {
			_, rev, gerr := s.kv.Get(ctx, key)
			switch {
			case gerr != nil && !kind.Is(gerr, kind.NotFound):
				return fmt.Errorf("lock %s: %w", name, gerr)
			case rev != seen:
				seen, since = rev, time.Now()
			case time.Since(since) > s.stale:
				err = s.kv.Put(ctx, key, []byte(mine), rev)
			}
		}
		if err == nil {
			s.hold(name, mine)
			return nil
		}
		if !kind.Is(err, kind.Conflict) {
			return fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hold touches the row of a lock until it is let go, or another holder has taken
// it over.
func (s *storage) hold(name, mine string) {
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	s.mu.Lock()
	s.held[name] = heldLock{mine, func() { cancel(); <-ended }}
	s.mu.Unlock()
	s.wg.Go(func() {
		defer close(ended)
		t := time.NewTicker(s.renew)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			rev, err := s.mine(ctx, name, mine)
			switch {
			case kind.Is(err, kind.Conflict) || kind.Is(err, kind.NotFound):
				return
			case err == nil:
				// One that fails is made good by the next.
				_ = s.kv.Put(ctx, lockPrefix+name, []byte(mine), rev)
			}
		}
	})
}

// mine is the revision of the row of a lock that is held here; the error is
// Conflict where another holder has taken it over, NotFound where there is none.
func (s *storage) mine(ctx context.Context, name, mine string) (revision int64, err error) {
	b, revision, err := s.kv.Get(ctx, lockPrefix+name)
	if err == nil && string(b) != mine {
		return 0, kind.Errorf(kind.Conflict, "it was taken over, as it was not touched for long")
	}
	return revision, err
}

// unlockTries bounds how often Unlock looks again: a last touch may still arrive.
const unlockTries = 3

// Unlock implements certmagic.Locker. The row of a holder that took the lock over
// stays.
func (s *storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	h, ok := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("unlock %s: not held", name)
	}
	h.letGo()
	var err error
	for range unlockTries {
		var rev int64
		if rev, err = s.mine(ctx, name, h.mine); err != nil {
			break
		}
		if err = s.kv.Delete(ctx, lockPrefix+name, rev); !kind.Is(err, kind.Conflict) {
			break
		}
	}
	if err != nil && !kind.Is(err, kind.NotFound) {
		return fmt.Errorf("unlock %s: %w", name, err)
	}
	return nil
}

// close waits until nothing touches locks any more; the context has ended.
func (s *storage) close() { s.wg.Wait() }
