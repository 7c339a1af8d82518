package load

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// ID names a message of the load: it is its Message-ID without the domain.
type ID string

// Sum is a checksum of a message from its first own header line on.
type Sum [sha256.Size]byte

// firstLine begins the part of a message that has to come back byte for byte;
// servers put trace lines in front of it.
const firstLine = "X-Load-Id: "

// Sizes picks message sizes.
type Sizes string

// Known mixes.
const (
	Size4K    Sizes = "4k"
	Size64K   Sizes = "64k"
	Realistic Sizes = "mix" // what a mail server sees: many small ones, a few large
)

// Pick returns the size of the next message in bytes.
func (s Sizes) Pick(r *rand.Rand) int {
	switch s {
	case Size4K:
		return 4 << 10
	case Size64K:
		return 64 << 10
	}
	switch p := r.IntN(1000); {
	case p < 500:
		return 2<<10 + r.IntN(4<<10)
	case p < 800:
		return 6<<10 + r.IntN(26<<10)
	case p < 950:
		return 32<<10 + r.IntN(96<<10)
	case p < 995:
		return 128<<10 + r.IntN(384<<10)
	}
	return 1<<20 + r.IntN(2<<20)
}

// filler is text that does not compress to nothing and needs no encoding.
var filler = makeFiller()

func makeFiller() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	const letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ,;-"
	var b bytes.Buffer
	for b.Len() < 4<<20 {
		for range 70 {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

const fillerLine = 72

// Compose makes a message of about size bytes.
func Compose(id ID, from string, to []string, size int, r *rand.Rand) []byte {
	var b bytes.Buffer
	b.Grow(size + 512)
	fmt.Fprintf(&b, "%s%s\r\nFrom: <%s>\r\nTo: %s\r\nSubject: load %s\r\nMessage-ID: <%s@load.invalid>\r\nDate: %s\r\n"+
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
		firstLine, id, from, strings.Join(to, ", "), id, id, time.Now().Format(time.RFC1123Z))
	for b.Len() < size {
		at := r.IntN(len(filler)/fillerLine-1) * fillerLine
		n := min(size-b.Len(), len(filler)-at, 64<<10)
		n = max(n-n%fillerLine, fillerLine)
		b.Write(filler[at : at+n])
	}
	return b.Bytes()
}

// Identify finds the identity of a message as it was read back, and the
// checksum of the part that may not change. A message that is not of this load has no identity.
func Identify(raw []byte) (ID, Sum, bool) {
	head, _, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	at := 0
	if !bytes.HasPrefix(head, []byte(firstLine)) {
		i := bytes.Index(head, []byte("\r\n"+firstLine))
		if i < 0 {
			return "", Sum{}, false
		}
		at = i + 2
	}
	line, _, _ := bytes.Cut(raw[at:], []byte("\r\n"))
	return ID(line[len(firstLine):]), sha256.Sum256(raw[at:]), true
}

func (s Sum) String() string { return hex.EncodeToString(s[:8]) }
