package smtpc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// peer is an SMTP server that follows the protocol but where act says
// otherwise: at a stage it answers that text, or does one of the things below.
type peer struct {
	ext      []string
	act      map[Stage]string
	acts     map[Stage][]string // one after the other, before act
	tls      *tls.Config
	said     []string // commands received
	bodies   [][]byte // with stuffing and final dot taken off
	raw      []byte   // of the last message as it came
	messages int      // final dots received
	sender   bool     // MAIL was accepted
	accepted int      // recipients of the transaction
	gone     chan struct{}

	c  net.Conn
	br *bufio.Reader
}

// What a peer may do instead of answering.
const (
	hang         = "(hang)"
	drop         = "(drop)"
	endlessLine  = "(endless line)"
	endlessReply = "(endless reply)"
	garbage      = "\x00\xff SSH-2.0-x"
	dripping     = "(drip)"
	stuck        = "(stuck)" // does not even read until gone is closed
)

var errDrop = errors.New("dropped")

func (p *peer) serve(c net.Conn) {
	p.c = c
	p.br = bufio.NewReaderSize(c, 256<<10)
	defer func() { p.c.Close() }()
	if p.answer(StageGreeting, "220 peer.test ESMTP") != nil {
		return
	}
	for {
		line, err := p.br.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		p.said = append(p.said, line)
		if err := p.command(line); err != nil {
			return
		}
	}
}

func (p *peer) command(line string) error {
	verb, _, _ := strings.Cut(line, " ")
	switch verb {
	case "EHLO":
		lines := append([]string{"peer.test"}, p.ext...)
		text := ""
		for i, l := range lines {
			sep := "-"
			if i == len(lines)-1 {
				sep = " "
			}
			text += "250" + sep + l + "\r\n"
		}
		return p.answer(StageHello, strings.TrimSuffix(text, "\r\n"))
	case "STARTTLS":
		if err := p.answer(StageSTARTTLS, "220 go ahead"); err != nil {
			return err
		}
		if p.tls == nil {
			return nil
		}
		if p.act[StageTLS] != "" {
			return p.answer(StageTLS, "")
		}
		tc := tls.Server(p.c, p.tls)
		if err := tc.Handshake(); err != nil {
			return err
		}
		p.c, p.br = tc, bufio.NewReaderSize(tc, 256<<10)
		return nil
	case "HELO":
		return p.answer("helo", "250 peer.test")
	case "AUTH":
		return p.answer(StageAuth, "235 2.7.0 welcome")
	case "MAIL":
		return p.answer(StageMail, "250 2.1.0 ok")
	case "RCPT":
		return p.answer(StageRcpt, "250 2.1.5 ok")
	case "RSET":
		return p.answer(StageReset, "250 2.0.0 ok")
	case "QUIT":
		p.answer("quit", "221 2.0.0 bye")
		return errDrop
	case "DATA":
		if err := p.answer(StageData, "354 go"); err != nil {
			return err
		}
		if a := p.act[StageData]; a != "" && !strings.HasPrefix(a, "354") {
			return nil
		}
		return p.content()
	}
	return p.answer("", "500 5.5.1 what")
}

func (p *peer) content() error {
	p.raw = nil
	var body []byte
	for {
		line, err := p.br.ReadBytes('\n')
		p.raw = append(p.raw, line...)
		if err != nil {
			return err
		}
		if p.act[StageBody] != "" {
			if err := p.answer(StageBody, ""); err != nil {
				return err
			}
		}
		if string(line) == ".\r\n" {
			break
		}
		body = append(body, bytes.TrimPrefix(line, []byte("."))...)
	}
	p.bodies = append(p.bodies, body)
	p.messages++
	if p.accepted == 0 {
		return p.answer(StageDot, "554 5.5.1 no valid recipients")
	}
	return p.answer(StageDot, "250 2.0.0 queued as 1")
}

func (p *peer) answer(st Stage, usual string) error {
	text := usual
	if a := p.acts[st]; len(a) > 0 {
		text, p.acts[st] = a[0], a[1:]
	} else if a := p.act[st]; a != "" {
		text = a
	}
	switch text {
	case hang:
		for { // until the client is gone
			if _, err := p.br.ReadByte(); err != nil {
				return errDrop
			}
		}
	case drop:
		return errDrop
	case stuck:
		<-p.gone
		return errDrop
	case endlessLine:
		text = "250 " + strings.Repeat("x", 1<<20)
	case endlessReply:
		text = strings.Repeat("250-more\r\n", 100_000)
	case dripping:
		for { // a line a minute, until the client is gone
			p.c.SetReadDeadline(time.Now().Add(time.Minute))
			var late net.Error
			if _, err := p.c.Read(make([]byte, 1<<10)); errors.As(err, &late) && late.Timeout() {
				if _, err := p.c.Write([]byte("250-more\r\n")); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
		}
	}
	switch {
	case st == StageMail:
		p.sender, p.accepted = text[0] == '2', 0
	case st == StageRcpt && p.sender && text[0] == '2':
		p.accepted++
	}
	_, err := p.c.Write([]byte(text + "\r\n"))
	return err
}

// options connect to p through a pipe.
func (p *peer) options() Options {
	return Options{
		Address: "192.0.2.1:25",
		Hello:   "client.test",
		Dial: func(context.Context, string, string) (net.Conn, error) {
			c, s := net.Pipe()
			go p.serve(s)
			return c, nil
		},
	}
}

func dial(t *testing.T, p *peer) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func envelope(to ...string) mail.Envelope {
	e := mail.Envelope{From: "ann@a.test"}
	for _, a := range to {
		e.Recipients = append(e.Recipients, mail.EnvelopeRecipient{Address: a})
	}
	return e
}

func yes() error { return nil }

const letter = "Subject: x\r\n\r\nHello\r\n"

func selfSigned(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer.test"}, DNSNames: []string{"peer.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	// Tickets are written when nobody reads yet, which a pipe without a
	// buffer does not forgive.
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true}
	return server, &tls.Config{RootCAs: pool, ServerName: "peer.test", MinVersion: tls.VersionTLS12}
}
