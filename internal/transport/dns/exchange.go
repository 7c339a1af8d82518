package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	wire "github.com/miekg/dns"
	"github.com/postern-mail/postern/internal/base/kind"
)

// udpSize is the size of a datagram that passes everywhere (DNS flag day 2020).
const udpSize = 1232

// strays is how many datagrams that do not fit the question are passed over
// in wait for the one that does.
const strays = 32

// exchange asks the resolvers in turn until one gives an answer: records, or
// that there are none. skip leaves one out, negative for none; by is the one
// that answered. All errors are Busy.
func (r *Resolver) exchange(ctx context.Context, name string, qtype uint16, skip int) (m *wire.Msg, by int, err error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, 0, busy(name, qtype, context.Cause(ctx))
	}
	var last error
	for range rounds {
		first := int(r.first.Load())
		for i := range r.servers {
			n := (first + i) % len(r.servers)
			if n == skip {
				continue
			}
			m, err := r.askOne(ctx, r.servers[n], name, qtype)
			if err == nil {
				if skip < 0 {
					r.first.Store(uint32(n))
				}
				return m, n, nil
			}
			last = err
			if ctx.Err() != nil {
				return nil, 0, busy(name, qtype, context.Cause(ctx))
			}
		}
	}
	return nil, 0, busy(name, qtype, last)
}

func busy(name string, qtype uint16, err error) error {
	return kind.Errorf(kind.Busy, "%s: %w", label(name, qtype), err)
}

// label names a question in errors.
func label(name string, qtype uint16) string {
	return "dns " + strings.ToLower(wire.TypeToString[qtype]) + " " + strings.TrimSuffix(name, ".")
}

// askOne puts the question to one resolver, over TCP when the answer does not
// fit a datagram (RFC 7766 section 5).
func (r *Resolver) askOne(ctx context.Context, s server, name string, qtype uint16) (*wire.Msg, error) {
	q := new(wire.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(udpSize, false)
	q.AuthenticatedData = s.trusted // RFC 6840 section 5.7: say whether it validated
	m, err := r.talk(ctx, "udp", s.addr, q)
	if err == nil && m.Truncated {
		m, err = r.talk(ctx, "tcp", s.addr, q)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("resolver %s: %w", s.addr, err)
	case m.Truncated:
		return nil, fmt.Errorf("resolver %s: an answer that is cut even over TCP", s.addr)
	case m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError:
		return nil, fmt.Errorf("resolver %s answers %s", s.addr, wire.RcodeToString[m.Rcode])
	case !m.RecursionAvailable && !m.Authoritative:
		return nil, fmt.Errorf("resolver %s does not ask others and does not know", s.addr)
	}
	m.AuthenticatedData = m.AuthenticatedData && s.trusted
	return m, nil
}

// talk is one question and its answer. Each has its own socket, so an answer
// has to guess port and identity (RFC 5452).
func (r *Resolver) talk(ctx context.Context, network, addr string, q *wire.Msg) (*wire.Msg, error) {
	deadline := time.Now().Add(r.timeout)
	d := net.Dialer{Deadline: deadline}
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	nc.SetDeadline(deadline)
	c := &wire.Conn{Conn: nc, UDPSize: udpSize}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	for range strays {
		m, err := c.ReadMsg()
		var ne net.Error
		switch {
		case err == nil && fits(q, m):
			return m, nil
		case errors.As(err, &ne), err != nil && network == "tcp":
			return nil, err
		}
		// Something else on that port: not ours, or damaged.
	}
	return nil, errors.New("only answers to something else")
}

// fits tells whether m answers q.
func fits(q, m *wire.Msg) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != wire.OpcodeQuery || len(m.Question) != 1 {
		return false
	}
	a, b := q.Question[0], m.Question[0]
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
