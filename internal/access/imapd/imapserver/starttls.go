package imapserver

import (
	"errors"

	"github.com/emersion/go-imap/v2"
)

func (c *Conn) canStartTLS() bool {
	return c.server.options.TLSConfig != nil && c.state == imap.ConnStateNotAuthenticated && !c.IsTLS()
}

// handleStartTLS answers and shakes hands. Text that was sent behind the
// command cannot be told from an attacker's: it ends the connection
// (RFC 9051 section 11.1).
func (c *Conn) handleStartTLS(cmd *command) error {
	if !cmd.dec.ExpectCRLF() {
		return cmd.dec.Err()
	}
	if !c.canStartTLS() {
		return &imap.Error{Type: imap.StatusResponseTypeBad, Text: "STARTTLS not available"}
	}
	if c.br.Buffered() > 0 {
		return errors.New("text behind STARTTLS")
	}
	err := c.writeStatusResp(cmd.tag, &imap.StatusResponse{
		Type: imap.StatusResponseTypeOK,
		Text: "Begin TLS negotiation now",
	})
	if err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.handshake(); err != nil {
		return err
	}
	return errAnswered
}
