package mailbox

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// logProto is the ALPN name of the log stream between copies. The number is
// the version of the protocol: a peer that speaks another is not connected.
const logProto = "postern-log/1"

// Frame types of the log stream. A frame is its type, the length of its
// payload (32 bits, big endian) and the payload. The following copy connects
// and says hello; then each side sends what is its to send.
const (
	frameHello     = 'H' // follower: who I am and where my log ends
	frameAccept    = 'A' // source: go on from there
	frameFork      = 'F' // source: the newest of your landmarks that is in my history
	frameRefuse    = 'R' // source: not here, with the reason
	frameData      = 'D' // source: records
	frameChunk     = 'C' // source: records of which some bodies are left out
	frameBeat      = 'B' // source: sign of life, end of log, what is confirmed
	frameAck       = 'K' // follower: what is durable here
	frameLandmarks = 'L' // follower: positions of my log
	frameJoint     = 'J' // both: signs of life for several databases; only from and to who says it can read them
	frameZip       = 'Z' // source: a data or chunk frame, compressed; only to who says it can read it
)

// maxFrame bounds what is allocated for one frame: a record of the largest
// message and its operations.
const maxFrame = 192 << 20

// hello opens a log stream.
type hello struct {
	Database org.DatabaseName `cbor:"1,keyasint"`
	Identity string           `cbor:"2,keyasint"`
	Term     org.Term         `cbor:"3,keyasint"` // the newest this copy knows
	End      journal.Position `cbor:"4,keyasint"`
	// Seed asks any copy, not only the leading one, for what it knows to be
	// confirmed.
	Seed bool `cbor:"5,keyasint,omitempty"`
	// Whole asks, with Seed, also for what is not known to be confirmed: the
	// active copy is gone.
	Whole bool `cbor:"6,keyasint,omitempty"`
	// Zip tells that compressed frames can be read here.
	Zip bool `cbor:"7,keyasint,omitempty"`
	// Keep asks for bodies that nobody needs any more, as far as they are still
	// there: this copy shows what was there some time ago.
	Keep bool `cbor:"8,keyasint,omitempty"`
	// Joint tells that joint beats can be read here.
	Joint bool `cbor:"9,keyasint,omitempty"`
}

// accept answers hello.
type accept struct {
	Term  org.Term         `cbor:"1,keyasint"`
	Start org.LSN          `cbor:"2,keyasint"`
	End   journal.Position `cbor:"3,keyasint"`
	// Total is how many bytes of log the source still keeps, for progress.
	Total int64 `cbor:"4,keyasint"`
}

// fork answers landmarks. None tells that nothing is in common.
type fork struct {
	At   journal.Position `cbor:"1,keyasint"`
	None bool             `cbor:"2,keyasint,omitempty"`
}

// refusal says why a stream is not served.
type refusal struct {
	Text    string   `cbor:"1,keyasint"`
	Trimmed bool     `cbor:"2,keyasint,omitempty"` // the log no longer goes back that far
	Term    org.Term `cbor:"3,keyasint,omitempty"`
}

// beat is a source's sign of life.
type beat struct {
	Term   org.Term
	End    org.LSN
	Commit org.LSN
	Sent   int64 // sender's own clock; comes back in ack
}

// ack is what a follower has.
type ack struct {
	Term    org.Term
	Durable org.LSN
	Echo    int64
}

// dataHead stands before the records of a data frame.
type dataHead struct {
	Term     org.Term
	Commit   org.LSN
	From, To journal.Position
}

const (
	dataHeadSize = 8 + 8 + 2*posSize
	posSize      = 8 + 4 + 8
)

func putPos(b []byte, p journal.Position) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.LSN))
	b = binary.BigEndian.AppendUint32(b, p.Chain)
	return binary.BigEndian.AppendUint64(b, uint64(p.Term))
}

func getPos(b []byte) journal.Position {
	return journal.Position{
		LSN:   org.LSN(binary.BigEndian.Uint64(b)),
		Chain: binary.BigEndian.Uint32(b[8:]),
		Term:  org.Term(binary.BigEndian.Uint64(b[12:])),
	}
}

func (h dataHead) encode() []byte {
	b := make([]byte, 0, dataHeadSize)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Term))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Commit))
	b = putPos(b, h.From)
	return putPos(b, h.To)
}

func decodeDataHead(b []byte) (dataHead, []byte, error) {
	if len(b) < dataHeadSize {
		return dataHead{}, nil, kind.Errorf(kind.Invalid, "log stream: data frame of %d bytes", len(b))
	}
	return dataHead{
		Term:   org.Term(binary.BigEndian.Uint64(b)),
		Commit: org.LSN(binary.BigEndian.Uint64(b[8:])),
		From:   getPos(b[16:]),
		To:     getPos(b[16+posSize:]),
	}, b[dataHeadSize:], nil
}

func (m beat) encode() []byte {
	b := make([]byte, 0, 32)
	for _, v := range []uint64{uint64(m.Term), uint64(m.End), uint64(m.Commit), uint64(m.Sent)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeBeat(b []byte) (beat, error) {
	if len(b) < 32 {
		return beat{}, kind.Errorf(kind.Invalid, "log stream: beat of %d bytes", len(b))
	}
	return beat{
		Term:   org.Term(binary.BigEndian.Uint64(b)),
		End:    org.LSN(binary.BigEndian.Uint64(b[8:])),
		Commit: org.LSN(binary.BigEndian.Uint64(b[16:])),
		Sent:   int64(binary.BigEndian.Uint64(b[24:])),
	}, nil
}

func (m ack) encode() []byte {
	b := make([]byte, 0, 24)
	for _, v := range []uint64{uint64(m.Term), uint64(m.Durable), uint64(m.Echo)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeAck(b []byte) (ack, error) {
	if len(b) < 24 {
		return ack{}, kind.Errorf(kind.Invalid, "log stream: ack of %d bytes", len(b))
	}
	return ack{
		Term:    org.Term(binary.BigEndian.Uint64(b)),
		Durable: org.LSN(binary.BigEndian.Uint64(b[8:])),
		Echo:    int64(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

// stream frames one connection. Reading and writing are each for one
// goroutine at a time.
type stream struct {
	c net.Conn
	r *bufio.Reader
	w *bufio.Writer
	// stall bounds one write and, where set by the reader, one read.
	stall time.Duration
	zip   *zipper // compresses what is sent, nil for not
	unzip *zipper // reads what is compressed, nil for not
}

func newStream(c net.Conn, stall time.Duration) *stream {
	return &stream{c: c, r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 16<<10), stall: stall}
}

// send writes one frame made of parts and flushes it.
func (s *stream) send(typ byte, parts ...[]byte) error {
	if s.zip != nil && (typ == frameData || typ == frameChunk) {
		if small, ok := s.zip.pack(typ, parts); ok {
			typ, parts = frameZip, [][]byte{small}
		}
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if err := s.c.SetWriteDeadline(time.Now().Add(s.stall)); err != nil {
		return err
	}
	var head [5]byte
	head[0] = typ
	binary.BigEndian.PutUint32(head[1:], uint32(n))
	if _, err := s.w.Write(head[:]); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := s.w.Write(p); err != nil {
			return err
		}
	}
	return s.w.Flush()
}

func (s *stream) sendValue(typ byte, v any) error {
	b, err := codec.Marshal(v)
	if err != nil {
		return err
	}
	return s.send(typ, b)
}

// recv reads one frame, waiting at most s.stall for its first byte.
func (s *stream) recv() (typ byte, payload []byte, err error) {
	if err := s.c.SetReadDeadline(time.Now().Add(s.stall)); err != nil {
		return 0, nil, err
	}
	typ, payload, err = readFrame(s.r)
	if err == nil && typ == frameZip {
		if s.unzip == nil {
			return 0, nil, kind.Errorf(kind.Invalid, "log stream: a compressed frame was not asked for")
		}
		return s.unzip.unpack(payload)
	}
	return typ, payload, err
}

// readFrame reads one frame. Memory grows with what arrives, not with the
// length that is announced.
func readFrame(r io.Reader) (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[1:]))
	if n > maxFrame {
		return 0, nil, kind.Errorf(kind.Invalid, "log stream: frame of %d bytes, at most %d", n, maxFrame)
	}
	const step = 8 << 20
	buf := make([]byte, min(n, step))
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, nil, err
	}
	for len(buf) < n {
		at := len(buf)
		buf = append(buf, make([]byte, min(n-at, step))...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return 0, nil, err
		}
	}
	return head[0], buf, nil
}

// expect reads one frame that has to be of type typ and decodes it into v. A
// refusal becomes an error.
func (s *stream) expect(typ byte, v any) error {
	t, p, err := s.recv()
	if err != nil {
		return err
	}
	switch t {
	case typ:
		return codec.Unmarshal(p, v)
	case frameRefuse:
		var r refusal
		if err := codec.Unmarshal(p, &r); err != nil {
			return err
		}
		return &refusedError{r}
	}
	return kind.Errorf(kind.Invalid, "log stream: frame %q, want %q", t, typ)
}

type refusedError struct{ r refusal }

func (e *refusedError) Error() string { return "log stream refused: " + e.r.Text }
