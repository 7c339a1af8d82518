package mesh

import (
	"encoding/binary"
	"io"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Version of the mesh protocol; it also stands in the ALPN name.
const Version = 1

// Limits of what is published and of a frame.
const (
	MaxSection  = 1 << 20
	MaxSections = 64
	maxFrame    = MaxSection + 4<<10
	maxOpinions = 256
)

// frame is one message: a length (4 bytes, big endian) and CBOR. Exactly one
// field is set; a frame with none is one that only a newer version knows.
type frame struct {
	Hello   *hello   `cbor:"1,keyasint,omitempty"`
	Beat    *beat    `cbor:"2,keyasint,omitempty"`
	Section *section `cbor:"3,keyasint,omitempty"`
}

type hello struct {
	Version int    `cbor:"1,keyasint"`
	Boot    string `cbor:"2,keyasint"`           // random per process
	Path    string `cbor:"3,keyasint,omitempty"` // network it came by; older versions say none
}

type beat struct {
	Sent     int64     `cbor:"1,keyasint"` // sender's own clock, ns
	Echo     int64     `cbor:"2,keyasint"` // Sent of the last beat heard from the receiver, 0 = none
	Held     int64     `cbor:"3,keyasint"` // ns between hearing that one and sending this
	Opinions []opinion `cbor:"4,keyasint"`
}

// opinion is what a server finds of another.
type opinion struct {
	Server org.ServerName `cbor:"1,keyasint"`
	State  State          `cbor:"2,keyasint"`
	For    int64          `cbor:"3,keyasint"` // ms in that state
}

type section struct {
	Name  string `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint"`
	// Version grows with each change in a process's life; older versions of
	// the program say none.
	Version uint64 `cbor:"3,keyasint,omitempty"`
}

func encode(f frame) []byte {
	b := codec.MustMarshal(f)
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
}

// read takes the next frame, refusing a length over the limit before
// anything is allocated for it.
func read(r io.Reader) (f frame, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return f, kind.Errorf(kind.Invalid, "mesh frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return f, err
	}
	if err := codec.Unmarshal(b, &f); err != nil {
		return f, kind.Errorf(kind.Invalid, "mesh frame: %w", err)
	}
	return f, f.check()
}

func (f frame) check() error {
	switch {
	case f.Beat != nil && len(f.Beat.Opinions) > maxOpinions:
		return kind.Errorf(kind.Invalid, "mesh frame: %d opinions", len(f.Beat.Opinions))
	case f.Section != nil && (len(f.Section.Value) > MaxSection || len(f.Section.Name) > 64):
		return kind.Errorf(kind.Invalid, "mesh frame: section too large")
	case f.Hello != nil && (len(f.Hello.Boot) > 64 || len(f.Hello.Path) > 128):
		return kind.Errorf(kind.Invalid, "mesh frame: boot id or path too long")
	}
	return nil
}
