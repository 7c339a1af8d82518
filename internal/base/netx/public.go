package netx

import "net/netip"

// Public tells whether an address may be one of the Internet: not of this
// host, a private network or a range that is nobody's (RFC 6890).
func Public(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, special := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4"} {
		if netip.MustParsePrefix(special).Contains(ip) {
			return false
		}
	}
	return true
}
