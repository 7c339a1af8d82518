// Package codec encodes what is stored in an index, sent between servers and
// kept in files: CBOR (RFC 8949) with integer keys, so that a field can be
// added without breaking an older reader (it ignores what it does not know).
// Encoding is canonical: equal values give equal bytes.
package codec

import "github.com/fxamacker/cbor/v2"

var enc = must(cbor.EncOptions{
	Sort:          cbor.SortCanonical,
	Time:          cbor.TimeRFC3339Nano,
	IndefLength:   cbor.IndefLengthForbidden,
	ShortestFloat: cbor.ShortestFloat16,
}.EncMode())

// Limits hold before anything is allocated: what comes from a disk or a peer
// may be damaged.
var dec = must(cbor.DecOptions{
	MaxNestedLevels:  256, // a structure of 100 levels has two for each
	MaxArrayElements: 1 << 24,
	MaxMapPairs:      1 << 20,
	IndefLength:      cbor.IndefLengthForbidden,
}.DecMode())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Marshal encodes v.
func Marshal(v any) ([]byte, error) { return enc.Marshal(v) }

// MustMarshal encodes a value whose type is known to encode.
func MustMarshal(v any) []byte { return must(enc.Marshal(v)) }

// Unmarshal decodes data into v.
func Unmarshal(data []byte, v any) error { return dec.Unmarshal(data, v) }
