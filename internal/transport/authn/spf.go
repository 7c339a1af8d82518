package authn

import (
	"context"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"
)

// checkMailFrom evaluates the MAIL FROM identity, which for the null sender is
// postmaster at the HELO name (RFC 7208 section 2.4).
func checkMailFrom(ctx context.Context, r Resolver, ip netip.Addr, helo, from string) SPF {
	if from == "" {
		s := checkHelo(ctx, r, ip, helo)
		if s.Domain != "" {
			s.Sender = "postmaster@" + s.Domain
		}
		return s
	}
	at := strings.LastIndexByte(from, '@') // a quoted local part may hold another one
	local, domain := from[:max(at, 0)], hostDomain(from[at+1:])
	if domain == "" {
		return SPF{Result: None, Sender: from, Why: "sender has no domain that can be asked"}
	}
	return checkHost(ctx, r, ip, helo, local, domain, from)
}

// checkHelo evaluates the HELO identity (RFC 7208 section 2.3).
func checkHelo(ctx context.Context, r Resolver, ip netip.Addr, helo string) SPF {
	domain := hostDomain(helo)
	if domain == "" {
		return SPF{Result: None, Why: "client gave no name that can be asked"}
	}
	s := checkHost(ctx, r, ip, domain, "postmaster", domain, "")
	s.Sender = ""
	return s
}

// checkHost is check_host (RFC 7208 section 4.1) with its limits of section
// 4.6.4: 10 terms that look something up, 2 of them void, 10 names of each mx.
func checkHost(ctx context.Context, r Resolver, ip netip.Addr, helo, local, domain, sender string) SPF {
	// The evaluation splits at the first @: a local part may not hold one. It
	// is only used in macros, where an @ could not match anything.
	local = strings.ReplaceAll(strings.Trim(local, `"`), "@", "_")
	if local == "" {
		local = "postmaster" // section 4.3
	}
	res, err := spf.CheckHostWithSender(ip.Unmap().AsSlice(), helo, local+"@"+domain, spf.WithContext(ctx), spf.WithResolver(&bounded{r: r}))
	s := SPF{Result: Result(res), Domain: domain, Sender: sender}
	if err != nil {
		s.Why = clip(err.Error())
	}
	return s
}
