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

	mu   sync.Mutex        // guards held
	held map[string]func() // ends the touching and waits for it
	wg   sync.WaitGroup
}

var _ certmagic.Storage = (*storage)(nil)

func newStorage(ctx context.Context, kv KV) *storage {
	return &storage{kv: kv, ctx: ctx, renew: 10 * time.Second, stale: time.Minute, poll: time.Second, held: map[string]func(){}}
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
	key := lockPrefix + name
	var seen int64 // revision of the holder's row
	since := time.Now()
	t := time.NewTicker(s.poll)
	defer t.Stop()
	for {
		err := s.kv.Put(ctx, key, []byte(rand.Text()), 0)
		if kind.Is(err, kind.Conflict) {
			_, rev, gerr := s.kv.Get(ctx, key)
			switch {
			case gerr != nil && !kind.Is(gerr, kind.NotFound):
				return fmt.Errorf("lock %s: %w", name, gerr)
			case rev != seen:
				seen, since = rev, time.Now()
			case time.Since(since) > s.stale:
				err = s.kv.Put(ctx, key, []byte(rand.Text()), rev)
			}
		}
		if err == nil {
			s.hold(name)
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

// hold touches the row of a lock until it is let go.
func (s *storage) hold(name string) {
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	s.mu.Lock()
	s.held[name] = func() { cancel(); <-ended }
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
				// One that fails is made good by the next.
				_ = s.kv.Put(ctx, lockPrefix+name, []byte(rand.Text()), -1)
			}
		}
	})
}

// Unlock implements certmagic.Locker.
func (s *storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	letGo := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if letGo == nil {
		return fmt.Errorf("unlock %s: not held", name)
	}
	letGo() // first, or a last touch would put the row back
	return s.kv.Delete(ctx, lockPrefix+name, -1)
}

// close waits until nothing touches locks any more; the context has ended.
func (s *storage) close() { s.wg.Wait() }
