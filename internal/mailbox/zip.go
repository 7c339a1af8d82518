package mailbox

import (
	"github.com/klauspost/compress/zstd"

	"github.com/postern-mail/postern/internal/base/kind"
)

// zipLeast is the size in bytes from which a frame is worth compressing.
const zipLeast = 512

// zipper compresses frames of log on their way (zstd, RFC 8878, fastest level).
// It is for any number of streams at a time.
type zipper struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newZipper() *zipper {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err)
	}
	return &zipper{enc, dec}
}

// pack makes the payload of a zip frame: the type of the frame inside, and its
// payload compressed. ok is false where that would not be smaller.
func (z *zipper) pack(typ byte, parts [][]byte) (out []byte, ok bool) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n < zipLeast {
		return nil, false
	}
	plain := make([]byte, 0, n)
	for _, p := range parts {
		plain = append(plain, p...)
	}
	out = z.enc.EncodeAll(plain, append(make([]byte, 0, n/2), typ))
	return out, len(out) < n
}

// unpack reads what pack made; at most maxFrame bytes come out.
func (z *zipper) unpack(payload []byte) (byte, []byte, error) {
	if len(payload) == 0 || payload[0] != frameData && payload[0] != frameChunk {
		return 0, nil, kind.Errorf(kind.Invalid, "log stream: no frame of log in a compressed one")
	}
	plain, err := z.dec.DecodeAll(payload[1:], nil)
	if err != nil {
		return 0, nil, kind.Errorf(kind.Invalid, "log stream: compressed frame: %w", err)
	}
	return payload[0], plain, nil
}
