package joining

import (
	"encoding/binary"
	"io"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Version of the join protocol.
const Version = 1

// Limits of the two messages.
const (
	maxRequest = 64 << 10
	maxAnswer  = 1 << 30
)

// Request is what a server that wants to join sends.
type Request struct {
	Version int              `cbor:"1,keyasint"`
	Secret  []byte           `cbor:"2,keyasint"`
	Name    org.ServerName   `cbor:"3,keyasint"`
	Site    org.SiteName     `cbor:"4,keyasint"`
	Addr    string           `cbor:"5,keyasint"`
	Witness bool             `cbor:"6,keyasint"`
	Volumes []org.VolumeName `cbor:"7,keyasint"`
	Program string           `cbor:"8,keyasint"` // version of the program
	CSR     []byte           `cbor:"9,keyasint"`
	Replace bool             `cbor:"10,keyasint"` // takes the place of a dead server of this name
	// Alternate is a witness that votes only while no other does.
	Alternate bool `cbor:"11,keyasint,omitempty"`
}

// Answer is what the member replies: an error, or all that a data folder needs.
type Answer struct {
	Version  int       `cbor:"1,keyasint"`
	Kind     kind.Kind `cbor:"2,keyasint"`
	Error    string    `cbor:"3,keyasint"` // empty: welcome
	Hint     string    `cbor:"4,keyasint"`
	Group    string    `cbor:"5,keyasint"`
	Identity string    `cbor:"6,keyasint"`
	Cert     []byte    `cbor:"7,keyasint"` // DER
	GroupKey []byte    `cbor:"8,keyasint"`
	View     []byte    `cbor:"9,keyasint"` // snapshot of the agreed state
}

// Write sends a message.
func Write(w io.Writer, v any) error {
	b, err := codec.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

// ReadRequest reads a request, refusing one that is too long before it is read.
func ReadRequest(r io.Reader) (q Request, err error) {
	err = read(r, maxRequest, &q)
	return q, err
}

// ReadAnswer reads an answer.
func ReadAnswer(r io.Reader) (a Answer, err error) {
	err = read(r, maxAnswer, &a)
	return a, err
}

func read(r io.Reader, limit uint32, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return kind.Errorf(kind.Invalid, "join message of %d bytes, at most %d are allowed", n, limit)
	}
	// The buffer grows with what really arrives.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if err := codec.Unmarshal(b, v); err != nil {
		return kind.Errorf(kind.Invalid, "join message: %w", err)
	}
	return nil
}
