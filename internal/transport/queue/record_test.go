package queue

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

var update = flag.Bool("update", false, "write golden files")

type sample struct {
	kind journal.Kind
	v    any
}

// samples has every field of every record.
func samples() []sample {
	id, holder := mail.TraceID{1, 2, 3}, org.ServerName("MBX2")
	a := &Accepted{V: 1, ID: id, Epoch: 4, Identity: [32]byte{5}, Received: 6, Expires: 7,
		Origin: mail.Origin{Door: "receive", Remote: "192.0.2.1", Helo: "h", Account: "a", Connector: "c", Organization: "o", TLS: "t", Trusted: true},
		Envelope: mail.Envelope{From: "f@x.test", Recipients: []mail.EnvelopeRecipient{{Address: "t@x.test", Notify: "NEVER", ORcpt: "rfc822;t"}},
			Ret: "FULL", EnvID: "e", UTF8: true, EightBit: true, RequireTLS: true},
		Size: 8, Shadow: "MBX2", Priority: 2, Flags: 9, Parent: mail.TraceID{10}, Subject: "s", MessageID: "<m>"}
	c := Change{ID: id, At: 11, Flags: 12, Clear: 13, Shadow: &holder, Fate: FateFinished, By: "MBX3", Epoch: 14, Rows: []RowChange{{
		N: 1, State: StateDeferred, Attempts: 2, Next: 15, Code: 450, Status: "4.2.0", Text: "later", Host: "mx.test", TLS: 3,
		Mailbox: org.MailboxRef{ID: org.MailboxID{16}, Database: "DB01"}, Duplicate: true, Child: mail.TraceID{17},
		New: &RowNew{Parent: 0, Address: "n@x.test", ORcpt: "rfc822;n", Notify: "DELAY", Dest: "db:DB01", Org: "o", Why: WhyGroup},
		At:  18, Repeat: true, Dest: "mx:x.test", Org: "p"}}}
	a.Also = []Change{c}
	return []sample{
		{KindAccept, a},
		{KindShadow, &shadowRec{1, "MBX1", "q", 2, codec.MustMarshal(a)}},
		{KindState, &stateRec{1, []Change{c}}},
		{KindNoticed, &noticedRec{1, "MBX2", "q", 19}},
		{KindTake, &takeRec{1, "MBX1", "q", 20, []mail.TraceID{id}}},
		{KindCarry, &carryRec{1, 21, codec.MustMarshal(&messageRow{ID: id, Rows: 1}), [][]byte{codec.MustMarshal(&row{State: StateNew})}}},
		{KindEpoch, &epochRec{1, "q", 22}},
		{KindRequest, &requestRec{1, "r", id, [4]uint32{1, 2, 3, 4}}},
	}
}

// TestFormat holds version 1 of the records: what was written once is read for
// ever.
func TestFormat(t *testing.T) {
	var b strings.Builder
	for _, s := range samples() {
		fmt.Fprintf(&b, "%d %x\n", s.kind, codec.MustMarshal(s.v))
	}
	const path = "testdata/queue-1.hex"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(golden) {
		t.Errorf("records are written otherwise:\n%s\nwant\n%s", b.String(), golden)
	}
	lines := strings.Split(strings.TrimSpace(string(golden)), "\n")
	for i, s := range samples() {
		_, h, _ := strings.Cut(lines[i], " ")
		ops, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		v, err := decodeRecord(s.kind, ops)
		if err != nil || !reflect.DeepEqual(v, s.v) {
			t.Errorf("kind %d: %+v, want %+v (%v)", s.kind, v, s.v, err)
		}
	}
}

// TestNewer shows what is done about records of a newer version.
func TestNewer(t *testing.T) {
	if _, err := decodeRecord(40, nil); !kind.Is(err, kind.Invalid) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("kind 40: %v", err)
	}
	if _, err := decodeRecord(KindEpoch, codec.MustMarshal(&epochRec{V: 2})); !kind.Is(err, kind.Invalid) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("version 2: %v", err)
	}
	more := codec.MustMarshal(map[int]any{1: 1, 2: "q", 3: 5, 99: "what is not known"})
	if v, err := decodeRecord(KindEpoch, more); err != nil || v.(*epochRec).Epoch != 5 {
		t.Errorf("one more field: %+v, %v", v, err)
	}
}

// FuzzRecord decodes anything: an error, or a record that encodes to something
// that decodes to the same.
func FuzzRecord(f *testing.F) {
	for _, s := range samples() {
		f.Add(uint8(s.kind), codec.MustMarshal(s.v))
	}
	f.Fuzz(func(t *testing.T, k uint8, ops []byte) {
		v, err := decodeRecord(journal.Kind(k), ops)
		if err != nil {
			return
		}
		b, err := codec.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRecord(journal.Kind(k), b)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if b2 := codec.MustMarshal(again); !bytes.Equal(b, b2) {
			t.Fatalf("%x, then %x", b, b2)
		}
		if r, ok := v.(*carryRec); ok {
			r.entry(8)
		}
	})
}

// FuzzJob decodes anything.
func FuzzJob(f *testing.F) {
	f.Add((&job{lsn: 8, size: 9, next: 10, state: StateReady, last: 3}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := decodeJob(b); err == nil && !bytes.Equal(j.encode(), b) {
			t.Fatalf("%x became %x", b, j.encode())
		}
	})
}
