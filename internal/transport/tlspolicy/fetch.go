package tlspolicy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const fetchTimeout = 60 * time.Second // RFC 8461 section 3.3

// fetch gets the policy of a domain over HTTPS (RFC 8461 section 3.3). Each
// fetch has its own connection: they are days apart.
func (p *Policies) fetch(ctx context.Context, domain string) (STS, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	tr := &http.Transport{
		DialContext:            p.dialPublic,
		TLSClientConfig:        &tls.Config{RootCAs: p.o.Roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives:      true,
		DisableCompression:     true, // what is small may not unpack to something large
		MaxResponseHeaderBytes: maxPolicy,
	}
	defer tr.CloseIdleConnections()
	c := http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+wellKnown, nil)
	if err != nil {
		return STS{}, err
	}
	req.Header.Set("User-Agent", "postern")
	resp, err := c.Do(req)
	if err != nil {
		return STS{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return STS{}, fmt.Errorf("mta-sts.%s answers %d", domain, resp.StatusCode)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != "text/plain" {
		return STS{}, fmt.Errorf("mta-sts.%s gives something that is not text/plain", domain)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxPolicy+1))
	if err != nil {
		return STS{}, err
	}
	return parsePolicy(b)
}

// dialPublic connects to a name, but not to addresses that strangers have no
// business to send this host to.
func (p *Policies) dialPublic(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, _, err := p.o.Resolver.Addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	last := errors.New("no public address")
	for _, ip := range ips[:min(len(ips), 4)] {
		if !p.o.Private && !public(ip) {
			continue
		}
		// One silent address may not eat the time of the others.
		actx, cancel := context.WithTimeout(ctx, fetchTimeout/4)
		c, err := p.o.Dial(actx, network, net.JoinHostPort(ip.String(), port))
		cancel()
		if err == nil {
			return c, nil
		}
		last = err
	}
	return nil, fmt.Errorf("connect %s: %w", host, last)
}

// public tells whether an address is one of the Internet: not of this host, a
// private network or a range that is nobody's (RFC 6890).
func public(ip netip.Addr) bool {
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
