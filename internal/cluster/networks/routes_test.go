package networks

import (
	"strings"
	"testing"
)

const routeTable = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0102000A	0003	0	0	200	00000000	0	0	0
eth0	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
`

func TestDefaultInterface(t *testing.T) {
	if got := DefaultInterface(strings.NewReader(routeTable)); got != "eth0" {
		t.Errorf("default route by %q", got)
	}
	if got := DefaultInterface(strings.NewReader("")); got != "" {
		t.Errorf("an empty table has %q", got)
	}
}

// FuzzDefaultInterface: any table is read without harm.
func FuzzDefaultInterface(f *testing.F) {
	f.Add(routeTable)
	f.Fuzz(func(t *testing.T, table string) {
		if got := DefaultInterface(strings.NewReader(table)); strings.ContainsAny(got, " \n") {
			t.Errorf("name %q", got)
		}
	})
}
