package mailbox

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// TestZip: frames of log come out as they went in, small ones and others'
// kinds go as they are, and a reader that did not ask for it refuses.
func TestZip(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	z := newZipper()
	from, to := newStream(a, time.Second), newStream(b, time.Second)
	from.zip, to.unzip = z, z
	big := bytes.Repeat([]byte("Received: from mail.example "), 4000)
	sent := make(chan error, 1)
	go func() {
		for _, f := range []struct {
			typ   byte
			parts [][]byte
		}{{frameData, [][]byte{{1, 2}, big}}, {frameData, [][]byte{{7}}}, {frameHello, [][]byte{big}}, {frameChunk, [][]byte{big}}} {
			if err := from.send(f.typ, f.parts...); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for _, want := range []struct {
		typ byte
		n   int
	}{{frameData, 2 + len(big)}, {frameData, 1}, {frameHello, len(big)}, {frameChunk, len(big)}} {
		typ, p, err := to.recv()
		if err != nil || typ != want.typ || len(p) != want.n {
			t.Fatalf("frame %q of %d bytes, %v; want %q of %d", typ, len(p), err, want.typ, want.n)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	small, ok := z.pack(frameData, [][]byte{big})
	if !ok || len(small) > len(big)/10 {
		t.Errorf("%d bytes became %d", len(big), len(small))
	}
	to.unzip = nil
	go func() { sent <- from.send(frameData, big) }()
	if _, _, err := to.recv(); err == nil {
		t.Error("a compressed frame that was not asked for is taken")
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// FuzzUnpack: what comes out of a damaged frame is bounded, and never panics.
func FuzzUnpack(f *testing.F) {
	z := newZipper()
	good, _ := z.pack(frameData, [][]byte{bytes.Repeat([]byte("a"), 10000)})
	f.Add(good)
	f.Add([]byte{frameChunk})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, p, err := z.unpack(b); err == nil && len(p) > maxFrame {
			t.Errorf("%d bytes", len(p))
		}
	})
}
