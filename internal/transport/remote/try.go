package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/postern-mail/postern/internal/transport/settings"
)

// tryTime bounds the look at one address.
const tryTime = 30 * time.Second

// Finding is what became of one step of trying a connector out.
type Finding struct {
	Host, Step, Detail string
	Err                error
}

// Try connects to every address of a connector, enabled or not, up to the
// log-in, and sends nothing.
func (a *Agent) Try(ctx context.Context, c settings.Connector) []Finding {
	dest := destConnector + ":" + string(c.Organization) + "/" + c.Name
	r := route{dest: dest, kind: destConnector, set: c, key: dest}
	if err := a.equip(&r); err != nil {
		return []Finding{{Host: c.Name, Step: "settings", Err: err}}
	}
	var out []Finding
	for _, host := range c.Hosts {
		r.set.Hosts = []string{host}
		t := &trial{a: a, r: r}
		n := len(out)
		for tg := range t.targets(ctx) {
			out = append(out, t.try(ctx, tg)...)
		}
		switch {
		case len(out) > n:
		case t.blamed != nil:
			out = append(out, Finding{Host: host, Step: "look up", Err: errors.New(t.blamed.Text)})
		default:
			out = append(out, Finding{Host: host, Step: "look up", Err: errors.New("the host has no IPv4 address")})
		}
	}
	return out
}

// try looks at one address.
func (t *trial) try(ctx context.Context, tg target) (out []Finding) {
	step := func(what, detail string, err error) {
		out = append(out, Finding{Host: tg.host + " " + tg.addr.String(), Step: what, Detail: detail, Err: err})
	}
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	s, f := t.connect(ctx, tg)
	if f != nil {
		step(string(f.Stage), "", f)
		return out
	}
	defer s.conn.Quit(ctx)
	step("connect", "", nil)
	if cs := s.conn.TLS(); cs != nil {
		step("TLS", tls.VersionName(cs.Version)+" "+tls.CipherSuiteName(cs.CipherSuite), nil)
	} else {
		step("TLS", "", errors.New("the host does not offer it, or its TLS does not work"))
	}
	if t.r.user != "" {
		step("log in", t.r.user, nil)
	}
	return out
}
