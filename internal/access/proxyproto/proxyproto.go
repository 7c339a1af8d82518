// Package proxyproto lets load balancers say whom a connection comes from
// (PROXY protocol version 2), and nobody else.
//
// It promises: a connection from a listed network must begin with a version 2
// header, or reading from it fails; on any other connection a header is
// content like everything else, and the door refuses it.
package proxyproto

import (
	"errors"
	"net"
	"net/netip"
	"time"

	pp "github.com/pires/go-proxyproto"
)

// headerTimeout is for balancers, which send the header at once.
const headerTimeout = 5 * time.Second

var errVersion = errors.New("PROXY protocol: only version 2 is taken")

// Listen wraps l for balancers in the given networks. The header is read on
// the first Read or RemoteAddr of a connection, not by Accept.
func Listen(l net.Listener, from []netip.Prefix) net.Listener {
	return &pp.Listener{
		Listener: l,
		ConnPolicy: func(o pp.ConnPolicyOptions) (pp.Policy, error) {
			if listed(o.Upstream, from) {
				return pp.REQUIRE, nil
			}
			return pp.SKIP, nil
		},
		ValidateHeader: func(h *pp.Header) error {
			if h.Version != 2 {
				return errVersion
			}
			return nil
		},
		ReadHeaderTimeout: headerTimeout,
	}
}

func listed(a net.Addr, from []netip.Prefix) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, _ := netip.AddrFromSlice(t.IP) // the zero address is in no network
	ip = ip.Unmap()
	for _, p := range from {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
