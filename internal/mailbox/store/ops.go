package store

import (
	"encoding/binary"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Ops are the changes of one record:
//
//	version  1 byte, 1
//	changes  set:          0x01 keylen key valuelen value
//	         delete:       0x02 keylen key
//	         delete range: 0x03 keylen from keylen to     (from <= key < to)
//
// Lengths are unsigned varints. Empty ops change nothing.
const opsVersion = 1

const (
	opSet         byte = 1
	opDelete      byte = 2
	opDeleteRange byte = 3
)

// MaxOps is the most bytes of ops one record may carry. A request that needs
// more is refused as Invalid before anything changes; who asks for a change of
// very many messages splits it by UIDs (200,000 flag changes need about 40 MB).
const MaxOps = 64 << 20

// opOverhead is the most a change takes besides key and value.
const opOverhead = 32

// op is one decoded change. Slices point into the ops.
type op struct {
	code byte
	key  []byte
	val  []byte // of set; the end of delete range
}

func appendSet(b, key, val []byte) []byte {
	b = appendBytes(append(start(b), opSet), key)
	return appendBytes(b, val)
}

func appendDelete(b, key []byte) []byte {
	return appendBytes(append(start(b), opDelete), key)
}

func appendDeleteRange(b, lo, hi []byte) []byte {
	return appendBytes(appendBytes(append(start(b), opDeleteRange), lo), hi)
}

func start(b []byte) []byte {
	if len(b) == 0 {
		return append(b, opsVersion)
	}
	return b
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// eachOp decodes ops. It allocates nothing and stops at the first damage.
func eachOp(ops []byte, fn func(op) error) error {
	if len(ops) == 0 {
		return nil
	}
	if ops[0] != opsVersion {
		return kind.Errorf(kind.Corrupt, "ops: version %d, this server knows %d", ops[0], opsVersion)
	}
	b := ops[1:]
	for len(b) > 0 {
		o := op{code: b[0]}
		var ok bool
		if o.key, b, ok = takeBytes(b[1:]); !ok {
			return kind.Errorf(kind.Corrupt, "ops: cut in a key")
		}
		if o.code == opSet || o.code == opDeleteRange {
			if o.val, b, ok = takeBytes(b); !ok {
				return kind.Errorf(kind.Corrupt, "ops: cut in a value")
			}
		}
		if err := checkOp(o); err != nil {
			return err
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}

func takeBytes(b []byte) (s, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	return b[w : w+int(n) : w+int(n)], b[w+int(n):], true
}

// checkOp keeps damage, and whatever a strange peer sends, away from the local
// keys and from ranges over more than one kind.
func checkOp(o op) error {
	switch o.code {
	case opSet, opDelete:
		return checkKey(o.key)
	case opDeleteRange:
		if len(o.key) < 17 || len(o.val) == 0 || len(o.key) > MaxKey || len(o.val) > MaxKey ||
			o.key[0] == kLocal || o.val[0]-o.key[0] > 1 || string(o.key) >= string(o.val) {
			return kind.Errorf(kind.Corrupt, "ops: bad range")
		}
		return nil
	}
	return kind.Errorf(kind.Corrupt, "ops: change of kind %d", o.code)
}
