package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Format constants. A change of the layout of anything on disk counts up
// FormatVersion; testdata/format-1.hex pins version 1.
const (
	// FormatVersion is the version this program writes.
	FormatVersion = 1
	// HeaderSize is the length of a record's header in bytes.
	HeaderSize = 64
	// MaxOps and MaxBody limit a record's parts in bytes; a header that
	// says more is damaged.
	MaxOps  = 64 << 20
	MaxBody = 1 << 30

	recordMagic = "PSTR"
	endMagic    = "PEND"
	blockMagic  = "PSTNLOG\x00"
)

// Where the fields of a record header are; integers are little-endian. The
// header CRC covers everything before it, so also the CRC of the record before:
// two histories that differ anywhere differ in every later header.
//
// The last eight bytes are the place of the record on this disk and not part
// of the stream: zero wherever a record is in memory or on the wire. See mark.
const (
	atMagic   = 0  // 4 bytes
	atVersion = 4  // 1
	atKind    = 5  // 1
	atFlags   = 6  // 2, carried through
	atOpsLen  = 8  // 4
	atBodyLen = 12 // 4
	atTerm    = 16 // 8
	atLSN     = 24 // 8
	atTime    = 32 // 8, Unix nanoseconds
	atPrev    = 40 // 4, header CRC of the record before
	atOpsCRC  = 44 // 4
	atBodyCRC = 48 // 4
	atCRC     = 52 // 4, of bytes 0 to 52
	atMark    = 56 // 4
	atMarkCRC = 60 // 4, of identity and bytes 52 to 60
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return update(0, b) }

func update(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// Kind says what a record is. Kinds this program does not know are kept,
// checked and shipped like the others.
type Kind uint8

// Kinds.
const (
	KindChange    Kind = 1 // a change of mailboxes
	KindTermStart Kind = 2 // the first record of a term
	KindMarker    Kind = 3 // a position that somebody wants to find again
	KindTrim      Kind = 4 // what comes before may be dropped
)

// Position is the end of a log: where the next record goes, and the header
// CRC and the term of the record before it. The zero value is the end of an
// empty log.
type Position struct {
	LSN   org.LSN  `json:"lsn" cbor:"1,keyasint"`
	Chain uint32   `json:"chain" cbor:"2,keyasint"`
	Term  org.Term `json:"term" cbor:"3,keyasint"`
}

func (p Position) String() string {
	return fmt.Sprintf("%#x (chain %08x, term %d)", uint64(p.LSN), p.Chain, p.Term)
}

// Record is one entry of the log.
type Record struct {
	Kind Kind
	Term org.Term
	LSN  org.LSN // position of its first byte
	Time int64   // Unix nanoseconds
	Ops  []byte  // changes of the index
	Body []byte  // nil where it was not asked for, or is a hole
	// BodyLen is the length of the body, whether or not Body is filled.
	BodyLen int
	// BodyHole tells that the body was given back to the disk, or never came.
	BodyHole bool
	Chain    uint32 // CRC of its own header
	Prev     uint32 // CRC of the header of the record before
	opsLen   int
}

// Next returns the position behind the record.
func (r Record) Next() Position {
	ops := r.opsLen
	if ops == 0 {
		ops = len(r.Ops)
	}
	return Position{r.LSN + org.LSN(recordSize(ops, r.BodyLen)), r.Chain, r.Term}
}

// recordSize is the length of a record in the stream: padded to 8 bytes, so
// that headers are found on multiples of 8 and never straddle a sector inside
// a field.
func recordSize(ops, body int) int64 { return (HeaderSize + int64(ops) + int64(body) + 7) &^ 7 }

// header is a decoded record header.
type header struct {
	kind            Kind
	ops, body       int
	term            org.Term
	lsn             org.LSN
	time            int64
	prev            uint32
	opsCRC, bodyCRC uint32
	crc             uint32
	mark            mark
}

func (h header) size() int64      { return recordSize(h.ops, h.body) }
func (h header) end() org.LSN     { return h.lsn + org.LSN(h.size()) }
func (h header) next() Position   { return Position{h.end(), h.crc, h.term} }
func (h header) bodyAt() int64    { return HeaderSize + int64(h.ops) }
func (h header) bodyLSN() org.LSN { return h.lsn + org.LSN(h.bodyAt()) }
func (h header) padding() int     { return int(h.size() - h.bodyAt() - int64(h.body)) }
func (h header) follows(at Position) error {
	switch {
	case h.lsn != at.LSN:
		return kind.Errorf(kind.Corrupt, "record says it is at %#x", uint64(h.lsn))
	case h.prev != at.Chain:
		return kind.Errorf(kind.Corrupt, "record follows %08x, not %08x", h.prev, at.Chain)
	case h.term < at.Term:
		return kind.Errorf(kind.Corrupt, "record of term %d after term %d", h.term, at.Term)
	}
	return nil
}

func (h header) record() Record {
	return Record{Kind: h.kind, Term: h.term, LSN: h.lsn, Time: h.time, BodyLen: h.body,
		BodyHole: h.mark.hole, Chain: h.crc, Prev: h.prev, opsLen: h.ops}
}

// mark is what a disk knows of a record by itself: how far before it the write
// began that brought it here, and whether its body is a hole. A header whose
// mark is sound proves that everything before that write was durable, because
// one write is not begun before the last one was synced; so a broken record
// before it is damage, not a torn end.
type mark struct {
	ok    bool // read from a disk and sound
	hole  bool
	since int64 // bytes, a multiple of 8
}

const markHole = 1 << 31

// parseHeader decodes and checks a header. It does not know where it stands.
// seed is that of the log whose disk it was read from, see Log.seed.
func parseHeader(b []byte, seed uint32) (header, error) {
	le := binary.LittleEndian
	if len(b) < HeaderSize {
		return header{}, kind.Errorf(kind.Corrupt, "record header of %d bytes", len(b))
	}
	if string(b[:4]) != recordMagic {
		return header{}, kind.Errorf(kind.Corrupt, "no record here")
	}
	if got, want := checksum(b[:atCRC]), le.Uint32(b[atCRC:]); got != want {
		return header{}, kind.Errorf(kind.Corrupt, "record header checksum %08x, want %08x", got, want)
	}
	if v := b[atVersion]; v != FormatVersion {
		return header{}, kind.WithHint(kind.Errorf(kind.Invalid, "record has format version %d, this program knows %d", v, FormatVersion),
			"a newer version wrote it; upgrade this server")
	}
	h := header{
		kind: Kind(b[atKind]), term: org.Term(le.Uint64(b[atTerm:])), lsn: org.LSN(le.Uint64(b[atLSN:])),
		time: int64(le.Uint64(b[atTime:])), prev: le.Uint32(b[atPrev:]),
		opsCRC: le.Uint32(b[atOpsCRC:]), bodyCRC: le.Uint32(b[atBodyCRC:]), crc: le.Uint32(b[atCRC:]),
	}
	ops, body := le.Uint32(b[atOpsLen:]), le.Uint32(b[atBodyLen:])
	if ops > MaxOps || body > MaxBody || h.lsn%8 != 0 || h.lsn > 1<<62 {
		return header{}, kind.Errorf(kind.Corrupt, "record header at %#x with lengths %d and %d", uint64(h.lsn), ops, body)
	}
	h.ops, h.body = int(ops), int(body)
	if m := le.Uint32(b[atMark:]); update(seed, b[atCRC:atMarkCRC]) == le.Uint32(b[atMarkCRC:]) {
		h.mark = mark{ok: true, hole: m&markHole != 0, since: int64(m&^markHole) * 8}
	}
	return h, nil
}

// markBytes encodes the mark of a record with the header checksum crc.
func markBytes(crc, seed uint32, since int64, hole bool) [8]byte {
	m := uint32(since / 8)
	if hole {
		m |= markHole
	}
	le := binary.LittleEndian
	var b [12]byte
	le.PutUint32(b[:], crc)
	le.PutUint32(b[4:], m)
	le.PutUint32(b[8:], update(seed, b[:8]))
	return [8]byte(b[4:])
}

// stamp puts a mark on the header in b.
func stamp(b []byte, seed uint32, since int64, hole bool) {
	m := markBytes(binary.LittleEndian.Uint32(b[atCRC:]), seed, since, hole)
	copy(b[atMark:], m[:])
}

// unstamp makes the header in b that of the stream again.
func unstamp(b []byte) { clear(b[atMark:HeaderSize]) }

// stamped tells whether the header in b has something in the place of a mark.
func stamped(b []byte) bool { return binary.LittleEndian.Uint64(b[atMark:]) != 0 }

// AppendRecord appends to dst the record that goes to at, and returns the
// position behind it. Ops and body have at most MaxOps and MaxBody bytes:
// callers have limits far below, and more is a bug that panics here, before
// it can reach a disk.
func AppendRecord(dst []byte, at Position, k Kind, term org.Term, time int64, ops, body []byte) ([]byte, Position) {
	if len(ops) > MaxOps || len(body) > MaxBody {
		panic(fmt.Sprintf("journal: record with %d and %d bytes", len(ops), len(body)))
	}
	le := binary.LittleEndian
	var b [HeaderSize]byte
	copy(b[:], recordMagic)
	b[atVersion], b[atKind] = FormatVersion, byte(k)
	le.PutUint32(b[atOpsLen:], uint32(len(ops)))
	le.PutUint32(b[atBodyLen:], uint32(len(body)))
	le.PutUint64(b[atTerm:], uint64(term))
	le.PutUint64(b[atLSN:], uint64(at.LSN))
	le.PutUint64(b[atTime:], uint64(time))
	le.PutUint32(b[atPrev:], at.Chain)
	le.PutUint32(b[atOpsCRC:], checksum(ops))
	le.PutUint32(b[atBodyCRC:], checksum(body))
	crc := checksum(b[:atCRC])
	le.PutUint32(b[atCRC:], crc)
	dst = append(append(append(dst, b[:]...), ops...), body...)
	n := recordSize(len(ops), len(body))
	var pad [8]byte
	dst = append(dst, pad[:n-HeaderSize-int64(len(ops))-int64(len(body))]...)
	return dst, Position{at.LSN + org.LSN(n), crc, term}
}

// check verifies ops, body and padding of the whole record raw with header h.
func (h header) check(raw []byte, body bool) error {
	if int64(len(raw)) != h.size() {
		return kind.Errorf(kind.Corrupt, "record at %#x: %d bytes of %d", uint64(h.lsn), len(raw), h.size())
	}
	if err := h.checkOps(raw[HeaderSize:h.bodyAt()]); err != nil {
		return err
	}
	end := h.bodyAt() + int64(h.body)
	if body {
		if err := h.checkBody(raw[h.bodyAt():end]); err != nil {
			return err
		}
	}
	return h.checkPad(raw[end:])
}

func (h header) checkOps(ops []byte) error {
	if got := checksum(ops); got != h.opsCRC {
		return kind.Errorf(kind.Corrupt, "record at %#x: operations have checksum %08x, want %08x", uint64(h.lsn), got, h.opsCRC)
	}
	return nil
}

func (h header) checkBody(body []byte) error {
	if got := checksum(body); got != h.bodyCRC {
		return kind.Errorf(kind.Corrupt, "record at %#x: body has checksum %08x, want %08x", uint64(h.lsn), got, h.bodyCRC)
	}
	return nil
}

func (h header) checkPad(pad []byte) error {
	if !zero(pad) {
		return kind.Errorf(kind.Corrupt, "record at %#x: padding is not zero", uint64(h.lsn))
	}
	return nil
}

func zero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Verify checks that batch is a run of whole records that begins at at: every
// checksum right, each linked to the one before, terms not decreasing. It
// returns the position behind it; otherwise kind.Corrupt, or kind.Invalid for
// a format version this program does not know.
func Verify(batch []byte, at Position) (Position, error) {
	for len(batch) > 0 {
		h, raw, err := nextRaw(batch)
		if err == nil {
			err = h.follows(at)
		}
		if err == nil {
			err = h.check(raw, true)
		}
		if err != nil {
			return at, fmt.Errorf("verify log at %#x: %w", uint64(at.LSN), err)
		}
		at, batch = h.next(), batch[len(raw):]
	}
	return at, nil
}

// nextRaw splits the first record, as in the stream, from batch.
func nextRaw(batch []byte) (header, []byte, error) {
	h, err := parseHeader(batch, 0)
	if err != nil {
		return h, nil, err
	}
	if h.size() > int64(len(batch)) {
		return h, nil, kind.Errorf(kind.Corrupt, "record at %#x: %d bytes of %d", uint64(h.lsn), len(batch), h.size())
	}
	if stamped(batch) {
		return h, nil, kind.Errorf(kind.Corrupt, "record at %#x: reserved bytes are not zero", uint64(h.lsn))
	}
	return h, batch[:h.size()], nil
}

// Records decodes a batch in memory; Ops and Body are parts of it. It checks
// what Verify checks but for the link to what came before the batch, and ends
// after an error.
func Records(batch []byte) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var at Position
		for first := true; len(batch) > 0; first = false {
			h, raw, err := nextRaw(batch)
			if err == nil && !first {
				err = h.follows(at)
			}
			if err == nil {
				err = h.check(raw, true)
			}
			if err != nil {
				yield(Record{}, fmt.Errorf("decode log batch: %w", err))
				return
			}
			r := h.record()
			r.BodyHole = false
			r.Ops = raw[HeaderSize:h.bodyAt():h.bodyAt()]
			r.Body = raw[h.bodyAt() : h.bodyAt()+int64(h.body) : h.bodyAt()+int64(h.body)]
			if !yield(r, nil) {
				return
			}
			at, batch = h.next(), batch[len(raw):]
		}
	}
}
