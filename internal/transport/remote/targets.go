package remote

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// Limits of one attempt.
const (
	maxHosts     = 5
	maxAddresses = 10
)

// target is one address to try.
type target struct {
	host   string
	addr   netip.AddrPort
	tls    smtpc.TLS
	config *tls.Config
	plan   *tlspolicy.Plan // of the host of a domain
	basis  tlspolicy.Basis
	policy tlspolicy.Basis // that of the domain, where the message asks for more
	sts    tlspolicy.STS   // of the domain
}

// targets goes through the addresses to try, in order, those that lately did
// not answer behind the others. What keeps a host from being one of them is
// noted.
func (t *trial) targets(ctx context.Context) iter.Seq[target] {
	return func(yield func(target) bool) {
		n, open := 0, true
		var last []target
		limited := func(tg target) bool {
			if t.a.cold.is(tg.addr, t.a.d.Now()) {
				last = append(last, tg)
				return true
			}
			n++
			open = yield(tg) && n < maxAddresses
			return open
		}
		if ip, ok := literal(t.r.domain); t.r.kind != destMX {
			t.configured(ctx, limited)
		} else if ok {
			t.literal(ctx, ip, limited)
		} else {
			t.exchangers(ctx, limited)
		}
		for _, tg := range last {
			if n++; !open || n > maxAddresses || ctx.Err() != nil || !yield(tg) {
				return
			}
		}
	}
}

// configured are the hosts of a connector or the smart host.
func (t *trial) configured(ctx context.Context, yield func(target) bool) {
	four := t.r.set.IPv4Only || t.r.set.Kind == settings.KindExchangeOnline
	basis := tlspolicy.Opportunistic
	if t.r.tls == smtpc.TLSMust {
		basis = tlspolicy.PKIX
	}
	port := t.a.d.Port
	if t.r.set.Port > 0 && t.r.set.Port < 1<<16 {
		port = uint16(t.r.set.Port)
	}
	for i, host := range t.r.set.Hosts {
		if i == maxHosts || ctx.Err() != nil {
			return
		}
		ips, err := t.addrs(ctx, host)
		if err != nil {
			v := judgeAddrs(host, err)
			t.note(deferred(v.Code, "4.4.3", v.Text).at(host).whole()) // the settings may be wrong, never the message
			continue
		}
		for _, ip := range alternate(ips) {
			if four && !ip.Is4() {
				continue
			}
			tg := target{host: host, addr: netip.AddrPortFrom(ip, port), tls: t.r.tls, config: t.r.config(host), basis: basis, policy: basis}
			if !yield(tg) {
				return
			}
		}
	}
}

func (t *trial) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ips, _, err := t.a.d.Resolver.Addrs(ctx, host)
	return ips, err
}

// literal reads the domain of an address such as user@[192.0.2.1] (RFC 5321
// section 4.1.3).
func literal(domain string) (netip.Addr, bool) {
	if !strings.HasPrefix(domain, "[") || !strings.HasSuffix(domain, "]") {
		return netip.Addr{}, false
	}
	s := domain[1 : len(domain)-1]
	if len(s) > 5 && strings.EqualFold(s[:5], "IPv6:") {
		s = s[5:]
	}
	ip, err := netip.ParseAddr(s)
	return ip.Unmap(), err == nil
}

func (t *trial) literal(ctx context.Context, ip netip.Addr, yield func(target) bool) {
	if len(t.a.allowed([]netip.Addr{ip})) == 0 {
		t.note(noWay(t.r.domain))
		return
	}
	h := mxHost{q: tlspolicy.Question{Domain: t.r.domain, MX: ip.String()}, ips: []netip.Addr{ip}}
	t.offer(ctx, h, yield)
}

// exchangers are the hosts of a domain.
func (t *trial) exchangers(ctx context.Context, yield func(target) bool) {
	domain := t.r.domain
	hosts, info, err := t.a.d.Resolver.MX(ctx, domain)
	if err != nil {
		t.note(judgeMX(domain, err))
		return
	}
	if hosts = t.before(hosts); len(hosts) == 0 {
		t.note(returned(554, "5.4.6", fmt.Sprintf("The hosts of %s are this server, which does not know the recipient", domain)))
		return
	}
	sts, err := t.a.d.Policies.For(ctx, domain)
	if err != nil {
		t.report(Session{Policy: "sts", Result: failureOfPolicy(err), Published: sts.Lines(), Hosts: sts.MX})
	}
	for i, mx := range shuffle(hosts) {
		if i == maxHosts || ctx.Err() != nil {
			return
		}
		ips, ainfo, err := t.a.d.Resolver.Addrs(ctx, mx.Host)
		if err != nil {
			t.note(judgeAddrs(mx.Host, err))
			continue
		}
		if ips = t.a.allowed(ips); len(ips) == 0 {
			t.note(noWay(mx.Host))
			continue
		}
		h := mxHost{ips: ips, q: tlspolicy.Question{Domain: domain, STS: sts, MX: mx.Host, Port: int(t.a.d.Port),
			SecureMX: info.Authentic, Address: ainfo}}
		if !t.offer(ctx, h, yield) {
			return
		}
	}
}

// before are the hosts that are preferred to this server: the others would send
// it here (RFC 5321 section 5.1).
func (t *trial) before(hosts []dns.MX) []dns.MX {
	for _, h := range hosts {
		if strings.EqualFold(h.Host, t.a.d.Hostname) {
			return slices.DeleteFunc(hosts, func(o dns.MX) bool { return o.Preference >= h.Preference })
		}
	}
	return hosts
}

// noWay is for a host that mail for the Internet may not go to.
func noWay(host string) verdict {
	return returned(550, "5.4.4", fmt.Sprintf("The host %s has only addresses that are not of the Internet or are this group's", host)).at(host)
}

// mxHost is a host of a domain.
type mxHost struct {
	q   tlspolicy.Question
	ips []netip.Addr
}

// offer gives the addresses of a host with the plan for its TLS.
func (t *trial) offer(ctx context.Context, h mxHost, yield func(target) bool) bool {
	plan, err := t.a.d.Policies.Host(ctx, h.q)
	if err != nil {
		n := Session{Policy: "tlsa", Result: "validation-failure", Host: h.q.MX}
		if h.q.STS.Mode == tlspolicy.ModeEnforce {
			n.Policy, n.Published, n.Hosts = "sts", h.q.STS.Lines(), h.q.STS.MX
		}
		t.report(n)
		t.note(deferred(0, "4.7.5", err.Error()).at(h.q.MX).whole())
		return true
	}
	policy := plan.Basis
	if t.r.strict {
		if !h.q.SecureMX && !h.q.STS.Allows(h.q.MX) {
			// Nobody vouches for the name that would be verified (RFC 8689
			// section 4.2.1).
			t.note(returned(550, "5.7.30", fmt.Sprintf("The message may only travel with REQUIRETLS, and neither DNSSEC nor MTA-STS says that %s is a host of %s", h.q.MX, h.q.Domain)).at(h.q.MX))
			return true
		}
		plan = plan.Strict()
	}
	tg := target{host: h.q.MX, tls: smtpc.TLSMay, config: plan.Config(nil), plan: &plan, basis: plan.Basis, policy: policy, sts: h.q.STS}
	if plan.Must() {
		tg.tls = smtpc.TLSMust
	}
	if _, ok := literal(t.r.domain); ok {
		tg.config.ServerName = ""
	}
	for _, ip := range alternate(h.ips) {
		tg.addr = netip.AddrPortFrom(ip, t.a.d.Port)
		if !yield(tg) {
			return false
		}
	}
	return true
}

func failureOfPolicy(err error) string {
	if kind.Is(err, kind.Invalid) {
		return "sts-policy-invalid"
	}
	return "sts-policy-fetch-error"
}
