package netx

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dialer opens TCP connections from a fixed source address, so that a server
// with several addresses (and a lab with several servers on loopback) is seen
// by its peers as what it is. The zero value lets the system choose.
type Dialer struct {
	// Source is the local address; invalid or unspecified means any.
	Source netip.Addr
	// Timeout bounds one attempt, 0 = only the context does.
	Timeout time.Duration
	// UserTimeout ends a connection whose peer acknowledges nothing for so
	// long (TCP_USER_TIMEOUT, RFC 5482), 0 = as the system does.
	UserTimeout time.Duration
}

// SourceOf takes the address of a host:port that may serve as a source.
// Names and unspecified addresses give the invalid address: any.
func SourceOf(hostport string) netip.Addr {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.IsUnspecified() {
		return netip.Addr{}
	}
	return ip
}

// DialContext opens a connection to a host:port.
func (d Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	nd := net.Dialer{Timeout: d.Timeout, KeepAlive: 15 * time.Second}
	if d.Source.IsValid() && !d.Source.IsUnspecified() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Source, 0))
	}
	if d.UserTimeout > 0 {
		nd.Control = func(_, _ string, rc syscall.RawConn) (err error) {
			cerr := rc.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.UserTimeout.Milliseconds()))
			})
			return errors.Join(err, cerr)
		}
	}
	return nd.DialContext(ctx, network, addr)
}

// Refused reports whether err is the other host's own word that nobody
// listens there: the host is up and the process is not.
func Refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
