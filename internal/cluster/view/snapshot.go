package view

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/postern-mail/postern/internal/base/kind"
)

// The snapshot of a view, as a file of each server's data folder:
//
//	"POSTVIEW"  8 bytes
//	version     4 bytes, big endian
//	group       2 bytes length, bytes: the group's id
//	revision    8 bytes
//	count       4 bytes
//	count times: key (2 bytes length), revision (8), value (4 bytes length)
//	SHA-256     32 bytes, of all before
const (
	magic           = "POSTVIEW"
	snapshotVersion = 1
	maxKey          = 4 << 10
	maxValue        = 16 << 20
)

// Encode writes a view as snapshot bytes.
func Encode(group string, v *View) []byte {
	b := append(make([]byte, 0, 256*v.Len()+128), magic...)
	b = binary.BigEndian.AppendUint32(b, snapshotVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(len(group)))
	b = append(b, group...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.revision))
	b = binary.BigEndian.AppendUint32(b, uint32(v.Len()))
	for k, it := range v.tree.from("") {
		b = binary.BigEndian.AppendUint16(b, uint16(len(k)))
		b = append(b, k...)
		b = binary.BigEndian.AppendUint64(b, uint64(it.Revision))
		b = binary.BigEndian.AppendUint32(b, uint32(len(it.Value)))
		b = append(b, it.Value...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Decode reads snapshot bytes. Errors are Corrupt, or Invalid where a newer
// version wrote them. It allocates no more than a small multiple of len(b).
func Decode(b []byte) (group string, v *View, err error) {
	bad := func(what string) (string, *View, error) {
		return "", nil, kind.Errorf(kind.Corrupt, "decode view snapshot: %s", what)
	}
	if len(b) < len(magic)+4+sha256.Size || string(b[:len(magic)]) != magic {
		return bad("not a snapshot")
	}
	if ver := binary.BigEndian.Uint32(b[len(magic):]); ver != snapshotVersion {
		return "", nil, kind.Errorf(kind.Invalid, "decode view snapshot: format version %d, this program reads %d", ver, snapshotVersion)
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return bad("checksum is wrong")
	}
	r := reader{b: body[len(magic)+4:]}
	group = string(r.take(int(r.uint(2)), 1<<10))
	revision, count := int64(r.uint(8)), int(r.uint(4))
	entries := func(yield func(string, Item) bool) {
		for range count {
			k := string(r.take(int(r.uint(2)), maxKey))
			it := Item{Revision: int64(r.uint(8))}
			it.Value = bytes.Clone(r.take(int(r.uint(4)), maxValue))
			if r.bad || !yield(k, it) {
				return
			}
		}
	}
	v = New(revision, iter.Seq2[string, Item](entries))
	if r.bad || len(r.b) != 0 || v.Len() != count {
		return bad("lengths are wrong")
	}
	return group, v, nil
}

// reader takes fields from bytes and remembers if there were too few.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n, limit int) []byte {
	if n < 0 || n > limit || n > len(r.b) {
		r.bad = true
		r.b = nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint(n int) (v uint64) {
	for _, c := range r.take(n, 8) {
		v = v<<8 | uint64(c)
	}
	return v
}
