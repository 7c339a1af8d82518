package report

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/base/netx"
)

const (
	postTimeout  = 60 * time.Second
	maxAddresses = 4
)

// post sends a report to a page (RFC 8460 section 3). Each has its own
// connection, as they go to different hosts.
func (r *Reporter) post(ctx context.Context, page, mediaType string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	tr := &http.Transport{DialContext: r.dialPublic, TLSClientConfig: &tls.Config{RootCAs: r.d.Roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	defer tr.CloseIdleConnections()
	// Elsewhere than the domain says, a report does not go.
	c := http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, page, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("User-Agent", "postern")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("post to %s: it answers %d", req.URL.Host, resp.StatusCode)
	}
	return nil
}

// dialPublic connects to a name, but not to addresses that strangers have no
// business to send this host to.
func (r *Reporter) dialPublic(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else {
		all, err := r.d.Resolver.LookupIPAddr(ctx, host)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	last := errors.New("no public address")
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		if !r.d.Private && !netx.Public(ip) {
			continue
		}
		// One silent address may not eat the time of the others.
		actx, cancel := context.WithTimeout(ctx, postTimeout/maxAddresses)
		c, err := r.d.Dial(actx, network, net.JoinHostPort(ip.String(), port))
		cancel()
		if err == nil {
			return c, nil
		}
		last = err
	}
	return nil, fmt.Errorf("connect %s: %w", host, last)
}
