package org

import (
	"encoding/json"
	"testing"
)

// TestBytes: people read units, programs the number.
func TestBytes(t *testing.T) {
	for b, want := range map[Bytes]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 20 << 30: "20.0 GiB", 1 << 62: "4.0 EiB", -1: "-1 B"} {
		j, err := json.Marshal(b)
		var again int64
		if b.String() != want || err != nil || json.Unmarshal(j, &again) != nil || again != int64(b) {
			t.Errorf("%d is %q, want %q; %s %v", int64(b), b, want, j, err)
		}
	}
}
