package proxyproto

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	pp "github.com/pires/go-proxyproto"
)

func TestListen(t *testing.T) {
	header := func(version byte) *pp.Header {
		return &pp.Header{Version: version, Command: pp.PROXY, TransportProtocol: pp.TCPv4,
			SourceAddr:      &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234},
			DestinationAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25}}
	}
	for _, c := range []struct {
		name   string
		from   string
		header *pp.Header
		want   string // address and first byte seen, empty for refused
	}{
		{"listed with a header", "127.0.0.0/8", header(2), "192.0.2.7 x"},
		{"listed with version 1", "127.0.0.0/8", header(1), ""},
		{"listed without a header", "127.0.0.0/8", nil, ""},
		{"a stranger with a header", "10.0.0.0/8", header(2), "127.0.0.1 \r"},
		{"a stranger without one", "10.0.0.0/8", nil, "127.0.0.1 x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := Listen(base, []netip.Prefix{netip.MustParsePrefix(c.from)})
			defer l.Close()
			client, err := net.Dial("tcp", base.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if c.header != nil {
				if _, err := c.header.WriteTo(client); err != nil {
					t.Fatal(err)
				}
			}
			io.WriteString(client, "xxxxxxxxxxxxxxxx")
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			server.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 1)
			got := ""
			if _, err := io.ReadFull(server, b); err == nil {
				got = server.RemoteAddr().(*net.TCPAddr).IP.String() + " " + string(b)
			}
			if got != c.want {
				t.Fatalf("%q, want %q", got, c.want)
			}
		})
	}
}
