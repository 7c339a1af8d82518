package journal

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

var update1 = flag.Bool("update", false, "write testdata anew (a change of it is a change of the format)")

// golden is a small log: what is in testdata/format-1.hex.
func golden(t testing.TB) (fs *fsx.Mem, path string, batch []byte, end Position) {
	fs = fsx.NewMem()
	l := mustOpen(t, fs)
	if err := l.Begin(Position{LSN: 0x1000, Chain: 0x01020304, Term: 3}); err != nil {
		t.Fatal(err)
	}
	at := l.End()
	batch, end = AppendRecord(nil, at, KindTermStart, 4, 1700000000_000000001, []byte("MBX1"), nil)
	batch, end = AppendRecord(batch, end, KindChange, 4, 1700000000_000000002, []byte("operations"), []byte("Subject: hello\r\n\r\nworld\r\n"))
	batch, end = AppendRecord(batch, end, Kind(200), 5, -1, nil, []byte("kind of the future"))
	if err := l.Write(batch, at, end); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return fs, l.segs[0].path, batch, end
}

// TestFormat1 pins what is on the disk, byte by byte, and reads it back.
func TestFormat1(t *testing.T) {
	fs, path, batch, end := golden(t)
	got, err := fsx.ReadFile(fs, path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	got = bytes.TrimRight(got, "\x00")
	const name = "testdata/format-1.hex"
	if *update1 {
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(name, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dump, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(dump) != hex.Dump(got) {
		t.Fatalf("format version %d is not what it was:\n%s", FormatVersion, hex.Dump(got))
	}

	old := fsx.NewMem()
	if err := old.MkdirAll("log"); err != nil {
		t.Fatal(err)
	}
	f, _ := old.Create(path)
	if _, err := f.WriteAt(undump(t, string(dump)), 0); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, old)
	if l.End() != end || l.Start() != 0x1000 || !bytes.Equal(stream(t, l), batch) {
		t.Fatal(l.Start(), l.End())
	}
}

func undump(t *testing.T, s string) []byte {
	var out []byte
	for line := range strings.Lines(s) {
		f := strings.Fields(strings.SplitN(line, "|", 2)[0])
		if len(f) == 0 || f[0] == "*" {
			continue
		}
		off, _ := hex.DecodeString(f[0])
		if len(off) != 4 {
			continue
		}
		at := int(off[0])<<24 | int(off[1])<<16 | int(off[2])<<8 | int(off[3])
		for len(out) < at {
			out = append(out, 0)
		}
		b, err := hex.DecodeString(strings.Join(f[1:], ""))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

func TestVerifyRefuses(t *testing.T) {
	_, _, batch, end := golden(t)
	at := Position{LSN: 0x1000, Chain: 0x01020304, Term: 3}
	if got, err := Verify(batch, at); err != nil || got != end {
		t.Fatal(got, err)
	}
	for name, p := range map[string]Position{
		"place": {LSN: 0x1008, Chain: at.Chain, Term: 3}, "chain": {LSN: 0x1000, Chain: 1, Term: 3}, "term": {LSN: 0x1000, Chain: at.Chain, Term: 5},
	} {
		if _, err := Verify(batch, p); !kind.Is(err, kind.Corrupt) {
			t.Error(name, err)
		}
	}
	for i := range batch {
		bad := bytes.Clone(batch)
		bad[i] ^= 0x40
		if _, err := Verify(bad, at); err == nil {
			t.Error("flip not found at", i)
		}
		if _, err := Verify(batch[:i], at); err == nil && i > 0 && i != HeaderSize+8 && i != 2*HeaderSize+48 {
			t.Error("half a record taken at", i)
		}
	}
	newer := bytes.Clone(batch[:HeaderSize])
	newer[atVersion]++
	crc := checksum(newer[:atCRC])
	newer[atCRC], newer[atCRC+1], newer[atCRC+2], newer[atCRC+3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	if _, err := Verify(newer, at); !kind.Is(err, kind.Invalid) || !strings.Contains(err.Error(), "upgrade") {
		t.Error("version:", err)
	}
}

func TestRecordsInMemory(t *testing.T) {
	_, _, batch, end := golden(t)
	var last Record
	var kinds []Kind
	for r, err := range Records(batch) {
		if err != nil {
			t.Fatal(err)
		}
		kinds, last = append(kinds, r.Kind), r
	}
	if len(kinds) != 3 || kinds[2] != 200 || last.Next() != end || string(last.Body) != "kind of the future" || last.Time != -1 {
		t.Fatal(kinds, last)
	}
}

func FuzzVerify(f *testing.F) {
	_, _, batch, _ := golden(f)
	f.Add(batch, uint64(0x1000), uint32(0x01020304))
	f.Fuzz(func(t *testing.T, b []byte, lsn uint64, chain uint32) {
		at := Position{LSN: org.LSN(lsn), Chain: chain}
		end, err := Verify(b, at)
		if err == nil && len(b) > 0 && end.LSN != at.LSN+org.LSN(len(b)) {
			t.Fatal("verified", end)
		}
		n := 0
		for r, rerr := range Records(b) {
			if rerr != nil {
				if err == nil {
					t.Fatal(rerr)
				}
				break
			}
			// What is decoded encodes to the same, flags of the future aside.
			raw := b[n:][:r.Next().LSN-r.LSN]
			again, _ := AppendRecord(nil, Position{r.LSN, r.Prev, 0}, r.Kind, r.Term, r.Time, r.Ops, r.Body)
			if raw[atFlags] == 0 && raw[atFlags+1] == 0 && !bytes.Equal(again, raw) {
				t.Fatal("differs")
			}
			n += len(raw)
		}
	})
}

func FuzzBlock(f *testing.F) {
	b := make([]byte, BlockSize)
	block{"id", Position{8, 1, 2}, 1 << 20}.encode(b)
	f.Add(b[:100])
	f.Fuzz(func(t *testing.T, p []byte) {
		b := make([]byte, BlockSize)
		copy(b, p)
		clear(b[12:16])
		crc := checksum(b) // or nothing would ever get through
		b[12], b[13], b[14], b[15] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
		k, err := parseBlock(b)
		if err != nil {
			return
		}
		again := make([]byte, BlockSize)
		k.encode(again)
		if k2, err := parseBlock(again); err != nil || k2 != k {
			t.Fatal(k, k2, err)
		}
	})
}

func FuzzChunk(f *testing.F) {
	_, _, batch, end := golden(f)
	c := Chunk{From: Position{LSN: 0x1000, Chain: 0x01020304, Term: 3}, End: end, Data: batch}
	f.Add(codec.MustMarshal(c))
	c.Data = append(bytes.Clone(batch[:HeaderSize+8+HeaderSize+10]), batch[HeaderSize+8+HeaderSize+10+25:]...)
	c.Elided = []Elision{{HeaderSize + 8 + HeaderSize + 10, 25}}
	if err := c.Verify(); err != nil {
		f.Fatal(err)
	}
	f.Add(codec.MustMarshal(c))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Chunk
		if codec.Unmarshal(b, &c) != nil || c.Verify() != nil || c.From.LSN == 0 || int64(c.End.LSN-c.From.LSN) > 1<<24 {
			return
		}
		l := mustOpen(t, fsx.NewMem())
		if err := l.Begin(c.From); err != nil {
			t.Fatal(err)
		}
		if err := l.WriteChunk(c); err != nil {
			t.Fatal(err)
		}
		for at := c.From.LSN; at < c.End.LSN; {
			got, err := l.Chunk(at, 1<<30, nil)
			if err != nil || len(got.Data) == 0 {
				t.Fatal(err)
			}
			if at == c.From.LSN && (!bytes.Equal(got.Data, c.Data) || got.End != c.End || len(got.Elided) != len(c.Elided)) {
				t.Fatal("differs")
			}
			at = got.End.LSN
		}
	})
}

// FuzzOpen opens a segment file that may hold anything.
func FuzzOpen(f *testing.F) {
	fs, path, _, _ := golden(f)
	b, _ := fsx.ReadFile(fs, path, 1<<20)
	f.Add(bytes.TrimRight(b, "\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := fsx.NewMem()
		fs.MkdirAll("log")
		h, _ := fs.Create(path)
		h.WriteAt(b, 0)
		l, err := Open("log", opts(fs))
		if err != nil {
			return
		}
		defer l.Close()
		for _, err := range l.RecordsWithBodies(l.Start(), l.End().LSN) {
			if err != nil && len(l.Damaged()) == 0 {
				t.Fatal(err)
			}
		}
	})
}
