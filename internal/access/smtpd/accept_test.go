package smtpd

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/mail"
)

// What the queue learns of envelope and origin.
func TestEnvelopeAndOrigin(t *testing.T) {
	w := open(t, nil)
	w.guard.prove = "c@tenant.test"
	c := dial(t, w.addr("receive"))
	c.say("EHLO client.test", "250 STARTTLS")
	c.say("MAIL FROM:<a@client.test> REQUIRETLS", "530 5.7.10")
	c.say("STARTTLS", "220")
	c.tls()
	c.say("EHLO client.test", "250 REQUIRETLS")
	c.say("MAIL FROM:<c@tenant.test> REQUIRETLS SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=q+2B1 SIZE=99", "250")
	c.say("RCPT TO:<ann@example.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bnn@x.test", "250")
	c.say("RCPT TO:<joe@elsewhere.test>", "250")
	c.say("DATA", "354")
	c.write(".\r\n")
	c.hear("250")
	c.say("MAIL FROM:<a@client.test>", "250") // the proof was for the other sender
	c.say("RCPT TO:<joe@elsewhere.test>", "550 5.7.1 Relaying is not allowed")
	c.say("RCPT TO:<ann@example.test>", "250")
	c.say("DATA", "354")
	c.write(".\r\n")
	c.hear("250")

	got := w.queue.all()
	e, o := got[0].Envelope, got[0].Origin
	if e.From != "c@tenant.test" || e.Ret != "HDRS" || e.EnvID != "q+1" || !e.UTF8 || !e.EightBit || !e.RequireTLS || e.Size != 99 || len(e.Recipients) != 2 ||
		e.Recipients[0] != (mail.EnvelopeRecipient{Address: "ann@example.test", Notify: "SUCCESS,DELAY", ORcpt: "rfc822;a+nn@x.test"}) {
		t.Errorf("%+v", e)
	}
	if o.Door != "receive" || o.Remote != "127.0.0.1" || o.Helo != "client.test" || o.Account != "" || o.Connector != "c1" ||
		o.Organization != "o2" || !strings.HasPrefix(o.TLS, "TLS 1.3 TLS_") || !o.Trusted {
		t.Errorf("%+v", o)
	}
	if o := got[1].Origin; o.Connector != "" || o.Organization != "" || o.Trusted {
		t.Errorf("%+v", o)
	}
	if got[0].Priority != mail.PriorityNormal || got[0].Received.IsZero() || got[0].Trace == got[1].Trace {
		t.Errorf("%+v", got[0])
	}

	nc, err := tls.Dial("tcp", w.addr("submissions"), testClientTLS())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c = newClient(t, nc)
	c.hear("220")
	c.say("EHLO client.test", "250")
	c.say("AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0LWFubg==", "235")
	c.say("MAIL FROM:<ann@example.test>", "250")
	c.say("RCPT TO:<joe@elsewhere.test>", "250")
	c.say("DATA", "354")
	c.write("From: ann@example.test\r\n\r\nx\r\n.\r\n")
	c.hear("250")
	ann, err := memDirectory{}.Authenticate(t.Context(), "ann@example.test", "secret-ann", "", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if o := w.queue.all()[2].Origin; o.Door != "submission" || o.Account != "o1/"+ann.ID.String() || o.Organization != "o1" || !o.Trusted {
		t.Errorf("%+v", o)
	}
}

// A repetition by the client is known by its identity; two equal messages
// without Message-ID are two.
func TestIdentity(t *testing.T) {
	w := open(t, nil)
	c := dial(t, w.addr("receive"))
	c.say("HELO client.test", "250")
	id := func(msg string, to ...string) [32]byte {
		c.mail(msg, "250", to...)
		all := w.queue.all()
		return all[len(all)-1].Identity
	}
	const named, bare = "Message-ID: <1@x.test>\r\n\r\nx", "Subject: x\r\n\r\nx"
	if a, b := id(named, "ann@example.test"), id(named, "ann@example.test"); a != b {
		t.Error("a repetition is taken for another message")
	}
	if a, b := id(bare, "ann@example.test"), id(bare, "ann@example.test"); a == b {
		t.Error("two messages are taken for one")
	}
	if a, b := id(bare, "ann@example.test", "bob@example.test"), id(bare, "ann@example.test", "bob@example.test"); a != b {
		t.Error("a repetition for several is taken for another message")
	}
	if a, b := id(named, "ann@example.test"), id(named+"y", "ann@example.test"); a == b {
		t.Error("another content has the same identity")
	}
}

// A client may show a certificate where connectors come in; nobody has to.
func TestClientCertificate(t *testing.T) {
	w := open(t, nil)
	config := func(extra int) *tls.Config {
		cert := testTLS(t).Certificates[0]
		for range extra {
			cert.Certificate = append(cert.Certificate, cert.Certificate[0])
		}
		return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}
	}
	send := func(door string, cfg *tls.Config) error {
		c := dial(t, w.addr(door))
		c.say("STARTTLS", "220")
		tc := tls.Client(c.nc, cfg)
		if err := tc.Handshake(); err != nil {
			return err
		}
		c = newClient(t, tc)
		c.write("EHLO client.test\r\n")
		if _, err := c.r.Peek(1); err != nil { // with TLS 1.3 the refusal comes behind the handshake
			return err
		}
		c.hear("250")
		if door == "submission" {
			c.say("AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0LWFubg==", "235")
			c.say("MAIL FROM:<ann@example.test>", "250")
		} else {
			c.say("MAIL FROM:<a@client.test>", "250")
		}
		c.say("RCPT TO:<ann@example.test>", "250")
		c.say("DATA", "354")
		c.write("From: ann@example.test\r\n\r\n.\r\n")
		c.hear("250")
		return nil
	}
	for _, x := range []struct {
		door  string
		cfg   *tls.Config
		shown int
	}{{"receive", config(0), 1}, {"receive", config(2), 3}, {"receive", testClientTLS(), 0}, {"submission", config(0), 0}} {
		if err := send(x.door, x.cfg); err != nil {
			t.Fatal(err)
		}
		p := w.guard.peers[len(w.guard.peers)-1]
		if p.TLS == nil || len(p.TLS.PeerCertificates) != x.shown {
			t.Errorf("%s: %d certificates, want %d", x.door, len(p.TLS.PeerCertificates), x.shown)
		}
	}
	if err := send("receive", config(200)); err == nil {
		t.Error("any number of certificates is taken")
	}
}
