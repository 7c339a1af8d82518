package port

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/netx"
)

// TestAbort: a stranger's connection in this process ends at once, one of a
// Port's own to the same address and one to another address go on.
func TestAbort(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	a, b := listen(), listen()
	dial := func(l net.Listener, d netx.Dialer) net.Conn {
		c, err := d.DialContext(context.Background(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	stranger, other := dial(a, netx.Dialer{}), dial(b, netx.Dialer{})
	own := dial(a, netx.Dialer{UserTimeout: userTimeout})
	if n := Abort([]netip.AddrPort{netip.MustParseAddrPort(a.Addr().String())}); n != 1 {
		t.Errorf("%d connections aborted, want 1", n)
	}
	stranger.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := stranger.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stranger reads %v", err)
	}
	for _, c := range []net.Conn{own, other} {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("it reads %v", err)
		}
	}
}

// FuzzSocketsTo: any table is read without harm.
func FuzzSocketsTo(f *testing.F) {
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100000A:1D13 0200000A:1D13 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20 4 30 10 -1\n")
	f.Add("0: 00000000000000000000000001000000:0019 B80D0120000000000000000001000000:1D13 02 0:0 0:0 0 0 0 12 1\n")
	want := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:7443"), netip.MustParseAddrPort("[2001:db8::1]:7443")}
	f.Fuzz(func(t *testing.T, table string) {
		for _, n := range socketsTo(strings.NewReader(table), want) {
			if n == 0 {
				t.Error("inode 0")
			}
		}
	})
}
