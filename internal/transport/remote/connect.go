package remote

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"

	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// connect opens a session. A host whose TLS fails is tried in clear where no
// policy is against it.
func (t *trial) connect(ctx context.Context, tg target) (*session, *smtpc.Failure) {
	source, hello := t.a.source(tg.addr.Addr(), t.r.dest)
	local := source // as the connection has it
	o := smtpc.Options{Address: tg.addr.String(), Hello: hello, TLS: tg.tls, Config: tg.config,
		User: t.r.user, Password: t.r.password, Timeouts: t.a.d.Timeouts,
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			c, err := t.a.d.Dial(ctx, source, address)
			if err == nil {
				if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
					local = a.AddrPort().Addr()
				}
			}
			return c, err
		}}
	conn, err := smtpc.Dial(ctx, o)
	f := failureOf(err)
	if f != nil && (f.Stage == smtpc.StageTLS || f.Stage == smtpc.StageSTARTTLS) {
		t.session(tg, local, failureOfTLS(f))
		if tg.tls == smtpc.TLSMay && ctx.Err() == nil {
			o.TLS = smtpc.TLSNever
			conn, err = smtpc.Dial(ctx, o)
			f = failureOf(err)
		}
	} else if f == nil {
		t.session(tg, local, resultOf(conn, tg))
	}
	if f != nil {
		return nil, f
	}
	s := &session{conn: conn, dest: t.r.dest, key: t.r.key, host: tg.host, born: t.a.d.Now()}
	if conn.TLS() != nil {
		s.tls = 1 + uint8(tg.basis)
	}
	return s, nil
}

func failureOf(err error) *smtpc.Failure {
	var f *smtpc.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	}
	return &smtpc.Failure{Stage: smtpc.StageConnect, Err: err}
}

// resultOf says how TLS of a session that stands went, in the words of RFC
// 8460.
func resultOf(c *smtpc.Conn, tg target) string {
	cs := c.TLS()
	if cs == nil {
		return "starttls-not-supported"
	}
	if tg.basis == tlspolicy.Testing {
		if err := tg.plan.Verify(*cs); err != nil {
			return failureOfTLS(err)
		}
	}
	return "success"
}

// failureOfTLS says the same of TLS that failed.
func failureOfTLS(err error) string {
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var f *smtpc.Failure
	switch {
	case errors.As(err, &name):
		return "certificate-host-mismatch"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "certificate-expired"
	case errors.As(err, &unknown), errors.As(err, &invalid):
		return "certificate-not-trusted"
	case errors.As(err, &f) && f.Stage == smtpc.StageSTARTTLS:
		return "starttls-not-supported"
	}
	return "validation-failure"
}

// session counts how the TLS of a session went.
func (t *trial) session(tg target, local netip.Addr, result string) {
	t.a.sessions.WithLabelValues(tg.policy.String(), result).Inc()
	if tg.plan == nil {
		return // of a connector: nobody asks for reports
	}
	n := Session{Policy: "no-policy-found", Result: result, Host: tg.host, Address: tg.addr.Addr(), Source: local}
	switch tg.policy {
	case tlspolicy.Encrypted, tlspolicy.DANE:
		n.Policy, n.Published, n.Hosts = "tlsa", tg.plan.Records(), []string{tg.host}
	case tlspolicy.PKIX, tlspolicy.Testing:
		n.Policy, n.Published, n.Hosts = "sts", tg.sts.Lines(), tg.sts.MX
	}
	t.report(n)
}

func (t *trial) report(n Session) {
	if t.a.d.Note != nil {
		n.Domain = t.r.domain
		t.a.d.Note(n)
	}
}
