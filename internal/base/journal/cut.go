package journal

import (
	"bytes"
	"fmt"
	"iter"
	"path/filepath"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Cut removes everything from at on, a boundary of this log (kind.NotFound
// if it is not one). What is removed is first moved whole into the file
// setAside, which OpenAside reads; a file of that name with other content is
// kind.Exists. A crash leaves the log as it was or shorter, never shorter
// than at, and the file complete before the log is touched; Cut can then be
// called again. Cutting at the end does nothing.
//
// A log that was damaged behind at cannot be set aside in full: Cut moves the
// bytes as they are, and OpenAside ends at the damage.
func (l *Log) Cut(at Position, setAside string) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.Failed(); err != nil {
		return err
	}
	if ok, err := l.contains(at); err != nil {
		return fmt.Errorf("cut log at %v: %w", at, err)
	} else if !ok {
		return kind.Errorf(kind.NotFound, "cut log at %v: no record of this history ends there", at)
	}
	if at == l.End() {
		return nil
	}
	if err := l.setAside(at, setAside); err != nil {
		return fmt.Errorf("cut log at %v: set aside %s: %w", at, setAside, err)
	}
	if err := l.truncate(at); err != nil {
		return l.fail(fmt.Errorf("cut log at %v: %w", at, err))
	}
	return nil
}

// setAside copies the stream from at on to a file.
func (l *Log) setAside(at Position, path string) error {
	end := l.End().LSN
	head := make([]byte, BlockSize)
	block{identity: l.o.Identity, from: at, capacity: int64(end - at.LSN)}.encode(head)
	if same, err := l.sameAside(at, path, head); err != nil || same {
		return err
	}
	tmp := path + tempExt
	if err := l.fs.Remove(tmp); err != nil && !kind.Is(err, kind.NotFound) {
		return err
	}
	f, err := l.fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(head, 0)
	if err == nil {
		err = l.eachPiece(at.LSN, end, func(p []byte, off int64) error {
			_, err := f.WriteAt(p, BlockSize+off)
			return err
		})
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = l.fs.Rename(tmp, path)
	}
	if err == nil {
		err = l.fs.SyncDir(filepath.Dir(path))
	}
	return err
}

// sameAside tells whether path holds already what is to be set aside: a crash
// came between the two halves of Cut.
func (l *Log) sameAside(at Position, path string, head []byte) (bool, error) {
	f, err := l.fs.Open(path)
	if kind.Is(err, kind.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	other := kind.Errorf(kind.Exists, "the file is there and holds something else")
	compare := func(want []byte, off int64) error {
		got := make([]byte, len(want))
		if n, _ := f.ReadAt(got, off); n != len(want) || !bytes.Equal(got, want) {
			return other
		}
		return nil
	}
	if size, err := f.Size(); err != nil || size < BlockSize+int64(l.End().LSN-at.LSN) {
		return false, other
	}
	// The header says where the log ended then; after a crash inside
	// truncate less of it may be left.
	got := make([]byte, BlockSize)
	if n, _ := f.ReadAt(got, 0); n != BlockSize {
		return false, other
	}
	b, err := parseBlock(got)
	if err != nil || b.identity != l.o.Identity || b.from != at {
		return false, other
	}
	return true, l.eachPiece(at.LSN, l.End().LSN, func(p []byte, off int64) error { return compare(p, BlockSize+off) })
}

// eachPiece reads the stream from from to to, off counting from 0.
func (l *Log) eachPiece(from, to org.LSN, do func(p []byte, off int64) error) error {
	buf := make([]byte, windowSize)
	for at := from; at < to; {
		n, err := l.readStream(buf, at, to)
		if err != nil {
			return err
		}
		if err := do(buf[:n], int64(at-from)); err != nil {
			return err
		}
		at += org.LSN(n)
	}
	return nil
}

// readStream reads up to len(p) bytes of the stream, as they are, from one
// segment.
func (l *Log) readStream(p []byte, at, to org.LSN) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, limit, err := l.find(at)
	if err != nil {
		return 0, err
	}
	off := int64(at - s.start)
	n := min(int64(len(p)), limit-off, int64(to-at))
	return int(n), l.readSegment(s, p[:n], off)
}

// truncate removes the bytes from at on from the files: newest segment first,
// so that what is left at any moment is a log. Callers hold mend and wmu.
func (l *Log) truncate(at Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	l.verified.clear()
	l.known.clear()
	l.tail.close()
	// Readers see the new end at once; the old one is gone if this fails.
	l.end = at
	for len(l.segs) > 1 && l.segs[len(l.segs)-1].start > at.LSN {
		s := l.segs[len(l.segs)-1]
		if err := l.removeSegment(s); err != nil {
			return err
		}
		l.segs = l.segs[:len(l.segs)-1]
	}
	i := 0
	for i < len(l.recent) && l.recent[i].LSN <= at.LSN {
		i++
	}
	l.recent = l.recent[:i]
	l.mendedDamage(at.LSN, ^org.LSN(0))
	return l.reopenTail(l.segs[len(l.segs)-1], at)
}

// reopenTail makes s, which ends at at, the tail with nothing behind its end.
// Callers hold mu.
func (l *Log) reopenTail(s *segment, at Position) error {
	if b, err := l.readBlock(s); err == nil {
		s.capacity = b.capacity
	}
	f, err := l.fs.OpenFile(s.path, fsx.Write|fsx.Direct)
	if err != nil {
		return err
	}
	s.used = fileSize(s.capacity)
	l.gmu.Lock()
	s.gens = nil
	l.gmu.Unlock()
	end := BlockSize + int64(at.LSN-s.start)
	if err := f.Truncate(end); err != nil {
		f.Close()
		return err
	}
	if err := f.Allocate(0, fileSize(s.capacity)); err != nil {
		f.Close()
		return err
	}
	l.syncs.Add(1)
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	block := fsx.AlignDown(end)
	part := make([]byte, end-block)
	if block >= BlockSize && len(part) > 0 {
		if err := l.readSegment(s, part, block-BlockSize); err != nil {
			f.Close()
			return err
		}
	}
	l.tail.set(s, f, end, part)
	return nil
}

// removeSegment deletes the file of a segment for good. Callers hold mu.
func (l *Log) removeSegment(s *segment) error {
	l.handles.forget(s)
	if err := l.fs.Remove(s.path); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// DropBefore deletes the segments that end at or below lsn. The last segment
// stays: it knows where the log ends.
func (l *Log) DropBefore(lsn org.LSN) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	for {
		// One at a time, so that readers wait for one file only.
		more, err := l.dropOne(lsn)
		if err != nil {
			return fmt.Errorf("drop log before %#x: %w", uint64(lsn), err)
		}
		if !more {
			l.mendedDamage(0, l.Start())
			return nil
		}
	}
}

func (l *Log) dropOne(lsn org.LSN) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.failed != nil || len(l.segs) < 2 || l.segs[1].start > lsn {
		return false, nil
	}
	s := l.segs[0]
	l.handles.forget(s)
	if err := l.fs.Remove(s.path); err != nil {
		return false, err // it is still there and still part of the log
	}
	l.segs = append(l.segs[:0:0], l.segs[1:]...)
	// Durable before the next one goes: a gap would look like a lost file.
	return true, l.fs.SyncDir(l.dir)
}

// OpenAside goes through the records of a file that Cut set aside. It ends
// after an error; bodies that were holes are so here.
func OpenAside(fs fsx.FS, path string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := eachAside(fs, path, func(r Record) bool { return yield(r, nil) }); err != nil {
			yield(Record{}, fmt.Errorf("read log set aside in %s: %w", path, err))
		}
	}
}

func eachAside(fs fsx.FS, path string, yield func(Record) bool) error {
	s := &segment{path: path}
	l := &Log{fs: fs}
	defer l.handles.forget(s)
	if err := l.acquire(s); err != nil {
		return err
	}
	head := make([]byte, BlockSize)
	_, err := s.f.ReadAt(head, 0)
	size, serr := s.f.Size()
	s.rw.RUnlock()
	if err != nil {
		return readError(err)
	}
	if serr != nil {
		return serr
	}
	b, err := parseBlock(head)
	if err != nil {
		return err
	}
	s.start, l.seed = b.from.LSN, checksum([]byte(b.identity))
	w := window{l: l, s: s}
	for at := b.from; int64(at.LSN-s.start) < b.capacity; {
		r, err := w.record(at, true, min(b.capacity, size-BlockSize), withBody)
		if err != nil {
			return err
		}
		rec := r.h.record()
		rec.Ops, rec.Body = bytes.Clone(r.ops), bytes.Clone(r.body)
		if !yield(rec) {
			return nil
		}
		at = r.h.next()
	}
	return nil
}
