package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// Try connects to every address of a connector, up to the log-in, and sends
// nothing.
func (a *Agent) Try(ctx context.Context, c settings.Connector) []Finding {
	dest := destConnector + ":" + string(c.Organization) + "/" + c.Name
	r, v, ok := a.routeOf(dest, false)
	if !ok {
		return []Finding{{Host: c.Name, Step: "settings", Err: errors.New(v.Text)}}
	}
	t := &trial{a: a, r: r}
	var out []Finding
	for tg := range t.targets(ctx) {
		step := func(what, detail string, err error) {
			out = append(out, Finding{Host: tg.host + " " + tg.addr.String(), Step: what, Detail: detail, Err: err})
		}
		one, cancel := context.WithTimeout(ctx, tryTime)
		s, f := t.connect(one, tg)
		if f != nil {
			step(fmt.Sprint(f.Stage), "", f)
			cancel()
			continue
		}
		step("connect", "", nil)
		if cs := s.conn.TLS(); cs != nil {
			step("TLS", tls.VersionName(cs.Version)+" "+tls.CipherSuiteName(cs.CipherSuite), nil)
		} else {
			step("TLS", "", errors.New("the host does not offer it"))
		}
		if r.user != "" {
			step("log in", r.user, nil)
		}
		s.conn.Quit(one)
		cancel()
	}
	if len(out) == 0 && t.blamed != nil {
		out = append(out, Finding{Host: c.Name, Step: "look up", Err: errors.New(t.blamed.Text)})
	}
	return out
}
