package mailbox

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
)

func TestHeadsRoundTrip(t *testing.T) {
	h := dataHead{Term: 7, Commit: 1 << 40, From: journal.Position{LSN: 9, Chain: 1, Term: 2}, To: journal.Position{LSN: 10, Chain: 3, Term: 7}}
	got, rest, err := decodeDataHead(append(h.encode(), "rest"...))
	if err != nil || got != h || string(rest) != "rest" {
		t.Errorf("%+v %q %v", got, rest, err)
	}
	b := beat{Term: 1, End: 2, Commit: 3, Sent: -4}
	if got, err := decodeBeat(b.encode()); err != nil || got != b {
		t.Errorf("%+v %v", got, err)
	}
	a := ack{Term: 1, Durable: 2, Echo: 3}
	if got, err := decodeAck(a.encode()); err != nil || got != a {
		t.Errorf("%+v %v", got, err)
	}
}

// TestWireFormatOne pins version 1 of the log stream.
func TestWireFormatOne(t *testing.T) {
	if logProto != "postern-log/1" || serviceName != "postern.mailbox.v1" {
		t.Error("the version changed: keep reading the former one")
	}
	want := []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3}
	if got := (ack{1, 2, 3}).encode(); !bytes.Equal(got, want) {
		t.Errorf("ack is % x, want % x", got, want)
	}
}

// FuzzFrame reads frames and decodes every payload a peer may send.
func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	b.Write([]byte{frameAck, 0, 0, 0, 24})
	b.Write(ack{1, 2, 3}.encode())
	f.Add(b.Bytes())
	f.Add([]byte{frameHello, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(append([]byte{frameData, 0, 0, 0, dataHeadSize}, dataHead{}.encode()...))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			typ, p, err := readFrame(r)
			if err != nil {
				return
			}
			if len(p) > len(data) {
				t.Fatalf("%d bytes out of %d", len(p), len(data))
			}
			switch typ {
			case frameAck:
				_, _ = decodeAck(p)
			case frameBeat:
				_, _ = decodeBeat(p)
			case frameData, frameChunk:
				h, rest, err := decodeDataHead(p)
				if err != nil {
					continue
				}
				_, _ = journal.Verify(rest, h.From)
				var c journal.Chunk
				_ = codec.Unmarshal(rest, &c)
			case frameHello:
				var h hello
				_ = codec.Unmarshal(p, &h)
			case frameLandmarks:
				var m []journal.Position
				_ = codec.Unmarshal(p, &m)
			}
		}
	})
}
