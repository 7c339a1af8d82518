package imapserver

import (
	"github.com/emersion/go-imap/v2"
	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

func (c *Conn) handleSelect(cmd *command) error {
	dec, readOnly := cmd.dec, cmd.name == "EXAMINE"
	var mailbox string
	if !dec.ExpectSP() || !dec.ExpectMailbox(&mailbox) || !dec.ExpectCRLF() {
		return dec.Err()
	}

	if err := c.checkState(imap.ConnStateAuthenticated); err != nil {
		return err
	}

	if c.state == imap.ConnStateSelected {
		if err := c.session.Unselect(); err != nil {
			return err
		}
		c.state = imap.ConnStateAuthenticated
		err := c.writeStatusResp("", &imap.StatusResponse{
			Type: imap.StatusResponseTypeOK,
			Code: "CLOSED",
			Text: "Previous mailbox is now closed",
		})
		if err != nil {
			return err
		}
	}

	options := imap.SelectOptions{ReadOnly: readOnly}
	data, err := c.session.Select(mailbox, &options)
	if err != nil {
		return err
	}

	if err := c.writeSelected(data); err != nil {
		return err
	}
	c.state = imap.ConnStateSelected
	code := imap.ResponseCode("READ-WRITE")
	if readOnly {
		code = "READ-ONLY"
	}
	err = c.writeStatusResp(cmd.tag, &imap.StatusResponse{
		Type: imap.StatusResponseTypeOK,
		Code: code,
		Text: cmd.name + " completed",
	})
	if err != nil {
		return err
	}
	return errAnswered
}

// writeSelected writes what RFC 9051 section 6.3.2 asks for, in one go.
func (c *Conn) writeSelected(data *imap.SelectData) error {
	enc := newResponseEncoder(c)
	defer enc.end()
	enc.Atom("*").SP().Number(data.NumMessages).SP().Atom("EXISTS").CRLF()
	if !c.enabled.Has(imap.CapIMAP4rev2) {
		enc.Atom("* 0 RECENT").CRLF()
		if data.FirstUnseenSeqNum != 0 {
			enc.Atom("* OK [UNSEEN ").Number(data.FirstUnseenSeqNum).Text("] First unseen message").CRLF()
		}
	}
	enc.Atom("* OK [UIDVALIDITY ").Number(data.UIDValidity).Text("] UIDs valid").CRLF()
	enc.Atom("* OK [UIDNEXT ").UID(data.UIDNext).Text("] Predicted next UID").CRLF()
	enc.Atom("* FLAGS ").List(len(data.Flags), func(i int) { enc.Flag(data.Flags[i]) }).CRLF()
	enc.Atom("* OK [PERMANENTFLAGS ").List(len(data.PermanentFlags), func(i int) { enc.Flag(data.PermanentFlags[i]) })
	enc.Text("] Permanent flags").CRLF()
	if data.List != nil {
		writeListItem(enc, "LIST", data.List)
	}
	return enc.Err()
}

func (c *Conn) handleUnselect(dec *imapwire.Decoder, expunge bool) error {
	if !dec.ExpectCRLF() {
		return dec.Err()
	}

	if err := c.checkState(imap.ConnStateSelected); err != nil {
		return err
	}

	if expunge {
		w := &ExpungeWriter{} // silent
		if err := c.session.Expunge(w, nil); err != nil {
			return err
		}
	}

	if err := c.session.Unselect(); err != nil {
		return err
	}

	c.state = imap.ConnStateAuthenticated
	return nil
}

func (c *Conn) writeExists(numMessages uint32) error {
	enc := newResponseEncoder(c)
	defer enc.end()
	return enc.Atom("*").SP().Number(numMessages).SP().Atom("EXISTS").CRLF()
}
