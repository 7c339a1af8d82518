package smtpc

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/postern-mail/postern/internal/mail"
)

// mailbox is a server by other people, over TCP: a second opinion on what this
// client writes.
type mailbox struct {
	mu     sync.Mutex
	from   string
	opts   smtp.MailOptions
	to     []string
	notify []smtp.DSNNotify
	bodies [][]byte
	user   string
}

type session struct{ m *mailbox }

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{m}, nil }

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "secret" {
			return errors.New("no")
		}
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		s.m.user = user
		return nil
	}), nil
}

func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.from, s.m.opts, s.m.to = from, *o, nil
	return nil
}

func (s *session) Rcpt(to string, o *smtp.RcptOptions) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if strings.HasPrefix(to, "no") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.m.to, s.m.notify = append(s.m.to, to), o.Notify
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.bodies = append(s.m.bodies, b)
	return err
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func TestSecondOpinion(t *testing.T) {
	server, client := selfSigned(t)
	server = server.Clone()
	server.SessionTicketsDisabled = false
	m := &mailbox{}
	srv := smtp.NewServer(m)
	srv.Domain, srv.TLSConfig = "peer.test", server
	srv.EnableSMTPUTF8, srv.EnableDSN, srv.EnableREQUIRETLS = true, true, true
	srv.MaxMessageBytes, srv.MaxRecipients = 10<<20, 500
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	defer wg.Wait()
	defer srv.Close()

	c, err := Dial(t.Context(), Options{Address: l.Addr().String(), Hello: "client.test", TLS: TLSMust, Config: client, User: "ann", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Quit(t.Context())
	e := mail.Envelope{From: "änn@a.test", Ret: "HDRS", EnvID: "a=b", UTF8: true, RequireTLS: true}
	for i := range 200 {
		name := "yes"
		if i%3 == 0 {
			name = "no"
		}
		e.Recipients = append(e.Recipients, mail.EnvelopeRecipient{Address: name + strings.Repeat("x", i%50) + "@b.test", Notify: "FAILURE,DELAY", ORcpt: "rfc822;x@b.test"})
	}
	for _, body := range []string{letter, ".\r\n..\r\n\r\n.", "Subject: ä\r\n\r\n" + strings.Repeat(".dots\r\n.\r\n"+strings.Repeat("y", 900)+"\r\n", 3000), "\r\n"} {
		s, err := c.Send(t.Context(), e, []byte(body), yes)
		if err != nil || s.Outcome != Taken {
			t.Fatalf("%v, %v", s.Outcome, err)
		}
		m.mu.Lock()
		want := []byte(body)
		if !strings.HasSuffix(body, "\r\n") {
			want = append(want, '\r', '\n')
		}
		if got := m.bodies[len(m.bodies)-1]; !bytes.Equal(got, want) {
			t.Errorf("%.30q became %.30q (%d bytes of %d)", body, got, len(got), len(want))
		}
		accepted := 0
		for i, r := range s.Recipients {
			if r.Accepted == (i%3 == 0) || r.Accepted != (r.Reply.Code == 250) {
				t.Errorf("recipient %d: %+v", i, r)
			}
			if r.Accepted {
				accepted++
			}
		}
		if len(m.to) != accepted {
			t.Errorf("%d accepted, the server has %d", accepted, len(m.to))
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.user != "ann" || m.from != "änn@a.test" || !m.opts.RequireTLS || !m.opts.UTF8 || m.opts.EnvelopeID != "a=b" || m.opts.Return != smtp.DSNReturnHeaders ||
		!slices.Equal(m.notify, []smtp.DSNNotify{smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed}) {
		t.Errorf("%q %q %+v %v", m.user, m.from, m.opts, m.notify)
	}
}
