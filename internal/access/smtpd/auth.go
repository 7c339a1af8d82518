package smtpd

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
)

var (
	authFailed    = reply{code: 535, status: "5.7.8", text: "Wrong name or password"}
	authCancelled = reply{code: 501, status: "5.7.0", text: "Cancelled"}
	authGarbled   = reply{code: 501, status: "5.5.2", text: "Not readable"}
)

// auth is RFC 4954 with PLAIN (RFC 4616) and LOGIN.
func (c *conn) auth(arg string) reply {
	mech, initial, has := strings.Cut(arg, " ")
	mech = strings.ToUpper(mech)
	switch {
	case !c.door.users:
		return reply{code: 502, status: "5.5.1", text: "Users log in at the submission port"}
	case c.tls == nil:
		return reply{code: 538, status: "5.7.11", text: "Passwords are taken under TLS only"}
	case !c.esmtp:
		return badSequence("Say EHLO first")
	case c.account != nil:
		return badSequence("You are logged in already")
	case c.tx != nil:
		return badSequence("Not inside a message")
	case arg == "":
		return badSyntax("AUTH wants a mechanism")
	}
	var login, password string
	var r reply
	switch mech {
	case "PLAIN":
		login, password, r = c.plain(initial, has)
	case "LOGIN":
		login, password, r = c.twoSteps(initial, has)
	default:
		return reply{code: 504, status: "5.5.4", text: "Mechanism is not offered, use PLAIN or LOGIN"}
	}
	if r.code != 0 || r.close {
		return r
	}
	return c.logIn(login, password)
}

// logIn asks the directory, which throttles guessing.
func (c *conn) logIn(login, password string) reply {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DeliverTimeout.Std())
	defer cancel()
	account, err := c.srv.deps.Directory.Authenticate(ctx, login, password, directory.ServiceSubmission, c.remote)
	switch {
	case err == nil:
		c.account = &account
		c.reset() // the peer is known now
		c.srv.metrics.logins.WithLabelValues("ok").Inc()
		return reply{code: 235, status: "2.7.0", text: "Welcome"}
	case kind.Is(err, kind.Busy), kind.Is(err, kind.Internal):
		c.srv.metrics.logins.WithLabelValues("busy").Inc()
		c.log.Warn("login cannot be checked", "err", err)
		c.authFailures++ // a client that hammers is cut off all the same
		return reply{code: 454, status: "4.7.0", text: "Cannot check passwords now, try again later"}
	}
	c.authFailures++
	c.failed(failedPassword)
	c.srv.metrics.logins.WithLabelValues("refused").Inc()
	c.log.Info("login refused", "login", printable(login, 100), "err", err)
	return authFailed
}

// plain reads authzid NUL authcid NUL password. Acting for another is not
// offered, so authzid must be empty or the same.
func (c *conn) plain(initial string, has bool) (login, password string, r reply) {
	if !has {
		if initial, r = c.challenge(""); r.code != 0 || r.close {
			return "", "", r
		}
	}
	raw, ok := unbase64(initial)
	if !ok {
		return "", "", authGarbled
	}
	parts := bytes.Split(raw, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 {
		return "", "", authGarbled
	}
	if len(parts[0]) > 0 && !bytes.EqualFold(parts[0], parts[1]) {
		c.authFailures++
		c.failed(failedPassword)
		return "", "", authFailed
	}
	return string(parts[1]), string(parts[2]), reply{}
}

// twoSteps is the LOGIN mechanism (draft-murchison-sasl-login), which old
// devices still need.
func (c *conn) twoSteps(initial string, has bool) (login, password string, r reply) {
	if !has {
		if initial, r = c.challenge("Username:"); r.code != 0 || r.close {
			return "", "", r
		}
	}
	name, ok := unbase64(initial)
	if !ok || len(name) == 0 {
		return "", "", authGarbled
	}
	answer, r := c.challenge("Password:")
	if r.code != 0 || r.close {
		return "", "", r
	}
	secret, ok := unbase64(answer)
	if !ok {
		return "", "", authGarbled
	}
	return string(name), string(secret), reply{}
}

// challenge sends a 334 and reads the answer to it.
func (c *conn) challenge(text string) (string, reply) {
	c.reply(reply{code: 334, text: base64.StdEncoding.EncodeToString([]byte(text))})
	line, err := c.readLine()
	if err != nil {
		c.hangUp(err)
		return "", silent.closing()
	}
	answer, bad := commandText(line)
	switch {
	case bad.code != 0:
		return "", bad
	case answer == "*":
		return "", authCancelled
	}
	return answer, reply{}
}

// unbase64 decodes a response; "=" stands for an empty one (RFC 4954
// section 4).
func unbase64(s string) ([]byte, bool) {
	if s == "=" {
		return nil, true
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return b, err == nil
}
