package journal

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// BlockSize is the length of the header block of a segment file in bytes; the
// stream follows it.
const BlockSize = 4096

// maxIdentity limits the identity of a database in the header block.
const maxIdentity = 256

// block is the header block of a segment file.
//
//	0  magic "PSTNLOG\0"      8
//	8  format version         4
//	12 CRC of the 4096 bytes, this field zero  4
//	16 start position         8
//	24 term of the record before the first     8
//	32 header CRC of that record               4
//	36 length of the identity 4
//	40 capacity: stream bytes the file is meant for  8
//	48 identity of the database
type block struct {
	identity string
	from     Position
	capacity int64
}

// encode fills b, BlockSize bytes.
func (k block) encode(b []byte) {
	le := binary.LittleEndian
	clear(b)
	copy(b, blockMagic)
	le.PutUint32(b[8:], FormatVersion)
	le.PutUint64(b[16:], uint64(k.from.LSN))
	le.PutUint64(b[24:], uint64(k.from.Term))
	le.PutUint32(b[32:], k.from.Chain)
	le.PutUint32(b[36:], uint32(len(k.identity)))
	le.PutUint64(b[40:], uint64(k.capacity))
	copy(b[48:], k.identity)
	le.PutUint32(b[12:], checksum(b))
}

// parseBlock decodes and checks a header block.
func parseBlock(b []byte) (block, error) {
	le := binary.LittleEndian
	if len(b) != BlockSize || string(b[:8]) != blockMagic {
		return block{}, kind.Errorf(kind.Corrupt, "not a log segment")
	}
	want := le.Uint32(b[12:])
	c := append([]byte(nil), b...)
	clear(c[12:16])
	if got := checksum(c); got != want {
		return block{}, kind.Errorf(kind.Corrupt, "segment header checksum %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[8:]); v != FormatVersion {
		return block{}, kind.WithHint(kind.Errorf(kind.Invalid, "segment has format version %d, this program knows %d", v, FormatVersion),
			"a newer version wrote it; upgrade this server")
	}
	n := le.Uint32(b[36:])
	capacity := int64(le.Uint64(b[40:]))
	if n > maxIdentity || capacity < 0 || capacity > 1<<40 || le.Uint64(b[16:])%8 != 0 || le.Uint64(b[16:]) > 1<<62 {
		return block{}, kind.Errorf(kind.Corrupt, "segment header makes no sense")
	}
	return block{
		identity: string(b[48 : 48+n]),
		from:     Position{org.LSN(le.Uint64(b[16:])), le.Uint32(b[32:]), org.Term(le.Uint64(b[24:]))},
		capacity: capacity,
	}, nil
}

// An end mark stands behind the last record of a log that came to rest. It
// says that everything before it is durable, which settles what a broken
// record at the end of a log is: damage, if the mark is there. The next write
// overwrites it.
//
//	0 "PEND"  4 version 1, 3 zero  8 position 8  16 term 8  24 chain 4  28 CRC of identity and 0 to 28
const endMarkSize = HeaderSize

func encodeEnd(b []byte, seed uint32, p Position) {
	le := binary.LittleEndian
	clear(b[:endMarkSize])
	copy(b, endMagic)
	b[4] = FormatVersion
	le.PutUint64(b[8:], uint64(p.LSN))
	le.PutUint64(b[16:], uint64(p.Term))
	le.PutUint32(b[24:], p.Chain)
	le.PutUint32(b[28:], update(seed, b[:28]))
}

func parseEnd(b []byte, seed uint32) (Position, bool) {
	le := binary.LittleEndian
	if len(b) < endMarkSize || string(b[:4]) != endMagic || update(seed, b[:28]) != le.Uint32(b[28:]) {
		return Position{}, false
	}
	return Position{org.LSN(le.Uint64(b[8:])), le.Uint32(b[24:]), org.Term(le.Uint64(b[16:]))}, true
}

const (
	segmentExt = ".log"
	tempExt    = ".tmp"
)

func segmentName(start org.LSN) string { return fmt.Sprintf("%016x%s", uint64(start), segmentExt) }

func parseName(name string) (org.LSN, bool) {
	s, ok := strings.CutSuffix(name, segmentExt)
	if !ok || len(s) != 16 || s != strings.ToLower(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 64)
	return org.LSN(n), err == nil
}

// fileSize is the length of the file of a segment with a capacity: the end
// mark has room even where the stream fills it.
func fileSize(capacity int64) int64 { return fsx.AlignUp(BlockSize + capacity + endMarkSize) }

// segment is one file of the log. Where it ends is known from the next one,
// or from the end of the log.
type segment struct {
	start    org.LSN
	path     string
	capacity int64 // stream bytes it was made for
	used     int64 // bytes it takes on disk, about; guarded by Log.mu

	rw   sync.RWMutex // guards f against eviction while it is read
	f    fsx.File     // for reading; nil when not open
	gens []Position   // see GenerationSums; guarded by Log.gmu
}

func (l *Log) newSegment(start org.LSN, capacity int64) *segment {
	return &segment{start: start, path: filepath.Join(l.dir, segmentName(start)), capacity: capacity}
}

// maxHandles limits the segment files kept open for reading.
const maxHandles = 64

// handles keeps segments open for reading, the oldest opened closed first.
type handles struct {
	mu   sync.Mutex
	open []*segment
}

// acquire read-locks s with its file open. Callers unlock s.rw.
func (l *Log) acquire(s *segment) error {
	for {
		s.rw.RLock()
		if s.f != nil {
			return nil
		}
		s.rw.RUnlock()
		s.rw.Lock()
		if s.f == nil {
			f, err := l.fs.Open(s.path)
			if err != nil {
				s.rw.Unlock()
				return err
			}
			s.f = f
			l.handles.add(s)
		}
		s.rw.Unlock()
	}
}

func (h *handles) add(s *segment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := h.open[:0]
	over := len(h.open) + 1 - maxHandles
	for _, o := range h.open {
		// One that is being read stays: it will be the first next time.
		if over > 0 && o != s && o.rw.TryLock() {
			over--
			o.closeFile()
			o.rw.Unlock()
			continue
		}
		keep = append(keep, o)
	}
	h.open = append(keep, s)
}

// forget closes the file of s. Nobody reads it: callers hold Log.mu.
func (h *handles) forget(s *segment) {
	h.mu.Lock()
	for i, o := range h.open {
		if o == s {
			h.open = append(h.open[:i], h.open[i+1:]...)
			break
		}
	}
	h.mu.Unlock() // not held together with rw in this order: see acquire
	s.rw.Lock()
	defer s.rw.Unlock()
	s.closeFile()
}

func (s *segment) closeFile() {
	if s.f != nil {
		s.f.Close() // only read: nothing can be lost
		s.f = nil
	}
}

// readBlock reads and checks the header block of a segment.
func (l *Log) readBlock(s *segment) (block, error) {
	if err := l.acquire(s); err != nil {
		return block{}, err
	}
	defer s.rw.RUnlock()
	b := make([]byte, BlockSize)
	if _, err := s.f.ReadAt(b, 0); err != nil {
		return block{}, readError(err)
	}
	k, err := parseBlock(b)
	switch {
	case err != nil:
		return k, fmt.Errorf("segment %s: %w", s.path, err)
	case k.identity != l.o.Identity:
		return k, kind.WithHint(kind.Errorf(kind.Invalid, "segment %s belongs to database %q, not to %q", s.path, k.identity, l.o.Identity),
			"this folder holds another database's log, or that of a former database of the same name; move it away and reseed the copy")
	case k.from.LSN != s.start:
		return k, kind.Errorf(kind.Corrupt, "segment %s says it begins at %#x", s.path, uint64(k.from.LSN))
	}
	return k, nil
}
