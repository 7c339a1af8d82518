package imapserver

import (
	"errors"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

// handleAuthenticate speaks SASL PLAIN (RFC 4616).
func (c *Conn) handleAuthenticate(cmd *command) error {
	dec := cmd.dec
	var mech, initial string
	if !dec.ExpectSP() || !dec.ExpectAtom(&mech) {
		return dec.Err()
	}
	hasInitial := dec.SP()
	if hasInitial && !dec.ExpectText(&initial) || !dec.ExpectCRLF() {
		return dec.Err()
	}
	if err := c.checkAuth(); err != nil {
		return err
	}
	if !strings.EqualFold(mech, "PLAIN") {
		return &imap.Error{Type: imap.StatusResponseTypeNo, Text: "SASL mechanism not supported"}
	}
	if !hasInitial {
		if err := c.writeContReq(""); err != nil {
			return err
		}
		next := imapwire.NewDecoder(c.br, c.limits())
		if next.CRLF() || next.Err() != nil || !next.ExpectText(&initial) || !next.ExpectCRLF() {
			if next.Err() == nil {
				return imapwire.Syntaxf("empty SASL response")
			}
			return next.Err()
		}
		if initial == "*" {
			return &imap.Error{Type: imap.StatusResponseTypeBad, Text: "AUTHENTICATE cancelled"}
		}
	}
	resp, err := imapwire.DecodeSASL(initial)
	if err != nil {
		return imapwire.Syntaxf("SASL response is not base64")
	}
	server := sasl.NewPlainServer(func(identity, username, password string) error {
		if identity != "" && identity != username {
			return &imap.Error{
				Type: imap.StatusResponseTypeNo,
				Code: imap.ResponseCodeAuthorizationFailed,
				Text: "SASL identity not supported",
			}
		}
		return c.session.Login(username, password)
	})
	if _, done, err := server.Next(resp); err != nil {
		var refused *imap.Error
		if !errors.As(err, &refused) {
			return imapwire.Syntaxf("SASL PLAIN response")
		}
		return err
	} else if !done {
		return imapwire.Syntaxf("SASL PLAIN response")
	}
	return c.loggedIn(cmd.tag, "PLAIN authentication successful")
}

func (c *Conn) handleLogin(cmd *command) error {
	dec := cmd.dec
	var username, password string
	if !dec.ExpectSP() || !dec.ExpectAString(&username) || !dec.ExpectSP() || !dec.ExpectAString(&password) || !dec.ExpectCRLF() {
		return dec.Err()
	}
	if err := c.checkAuth(); err != nil {
		return err
	}
	if err := c.session.Login(username, password); err != nil {
		return err
	}
	return c.loggedIn(cmd.tag, "Logged in")
}

func (c *Conn) checkAuth() error {
	if err := c.checkState(imap.ConnStateNotAuthenticated); err != nil {
		return err
	}
	if !c.canAuth() {
		return &imap.Error{
			Type: imap.StatusResponseTypeNo,
			Code: imap.ResponseCodePrivacyRequired,
			Text: "TLS is required to authenticate",
		}
	}
	return nil
}

func (c *Conn) loggedIn(tag, text string) error {
	c.state = imap.ConnStateAuthenticated
	if err := c.writeCapabilityStatus(tag, text); err != nil {
		return err
	}
	return errAnswered
}
