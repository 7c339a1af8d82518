package journal

import (
	"fmt"
	"sync"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
)

// spare is a segment file that has its space but no name yet.
type spare struct {
	f        fsx.File
	path     string
	capacity int64
}

func (s *spare) drop(fs fsx.FS) {
	s.f.Close()
	fs.Remove(s.path) // Open removes what is left
}

// spares keeps one segment ready. The space is found before it is needed, so
// that a full disk is noticed where it can still be answered.
type spares struct {
	mu     sync.Mutex // guards all below
	n      int        // names given
	ready  *spare
	making chan struct{} // closed when the one in the making is done; nil: none is
	err    error         // why the last one could not be made
	gone   bool
}

// makeSpare makes a segment file of a capacity.
func (l *Log) makeSpare(n int, capacity int64) (*spare, error) {
	p := l.path(fmt.Sprintf("next-%d%s", n, tempExt))
	f, err := l.fs.OpenFile(p, fsx.Write|fsx.New|fsx.Direct)
	if err != nil {
		return nil, err
	}
	s := &spare{f, p, capacity}
	if err := f.Allocate(0, fileSize(capacity)); err != nil {
		s.drop(l.fs)
		return nil, err
	}
	return s, nil
}

// prepare sees to it that a segment is ready or in the making.
func (l *Log) prepare() {
	n, done := l.spares.begin()
	if done == nil {
		return
	}
	work := func() {
		s, err := l.makeSpare(n, l.o.SegmentSize)
		l.spares.end(s, err)
		close(done)
	}
	if l.o.foreground {
		work()
		return
	}
	go work() // drop waits for it
}

// begin announces the making of one, if there is need: done is nil if not.
func (p *spares) begin() (n int, done chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready != nil || p.making != nil || p.gone {
		return 0, nil
	}
	p.n++
	p.making = make(chan struct{})
	return p.n, p.making
}

func (p *spares) end(s *spare, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready, p.err, p.making = s, err, nil
}

// wait waits for the one in the making.
func (p *spares) wait() {
	p.mu.Lock()
	making := p.making
	p.mu.Unlock()
	if making != nil {
		<-making
	}
}

// take returns a segment file of a capacity, the one that is ready if it fits.
func (l *Log) take(capacity int64) (*spare, error) {
	p := &l.spares
	if capacity == l.o.SegmentSize {
		p.wait()
		p.mu.Lock()
		s := p.ready
		p.ready = nil
		p.mu.Unlock()
		if s != nil {
			return s, nil
		}
	}
	p.mu.Lock()
	p.n++
	n := p.n
	p.mu.Unlock()
	return l.makeSpare(n, capacity)
}

// drop ends the preparing and removes what is ready.
func (p *spares) drop(fs fsx.FS) {
	p.mu.Lock()
	p.gone = true
	p.mu.Unlock()
	p.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready != nil {
		p.ready.drop(fs)
		p.ready = nil
	}
}

// Room tells whether the log can grow: kind.Full when the volume has less
// than Options.Reserve free or the next segment cannot be made. After nil, a
// Write of at most a segment size finds its space. It is asked before a batch
// gets its position, so that a full disk is an answer and not a broken log; it
// recovers by itself when space returns.
func (l *Log) Room() error {
	if err := l.Failed(); err != nil {
		return err
	}
	free, _, err := l.fs.Free(l.dir)
	if err != nil {
		return fmt.Errorf("room for log %s: %w", l.dir, err)
	}
	if free < l.o.Reserve {
		return kind.Errorf(kind.Full, "room for log %s: %d bytes free, reserve is %d", l.dir, free, l.o.Reserve)
	}
	l.prepare()
	l.spares.wait()
	p := &l.spares
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil && p.making == nil && p.err != nil {
		return fmt.Errorf("room for log %s: %w", l.dir, p.err)
	}
	return nil
}
