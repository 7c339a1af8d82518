package imapserver

import (
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

func (c *Conn) handleAppend(cmd *command) error {
	dec := cmd.dec
	var (
		mailbox string
		options imap.AppendOptions
	)
	if !dec.ExpectSP() || !dec.ExpectMailbox(&mailbox) || !dec.ExpectSP() {
		return dec.Err()
	}
	if err := readAppendOptions(dec, &options); err != nil {
		return err
	}
	utf8, err := readAppendExt(dec)
	if err != nil {
		return err
	}
	lit, err := dec.ExpectLiteralReader()
	if err != nil {
		return err
	}
	err = c.checkState(imap.ConnStateAuthenticated)
	if err == nil {
		err = c.session.AppendCheck(mailbox, lit.Size(), lit.Waits(), &options)
	}
	if err != nil {
		lit.Reject()
		return err
	}
	if err := lit.Accept(); err != nil {
		return err
	}
	// Half an hour for the largest message over the slowest line that works.
	c.setReadTimeout(c.server.options.IdleTimeout)
	data, err := c.session.Append(mailbox, lit, &options, func() error {
		c.setReadTimeout(c.server.options.CommandTimeout)
		if utf8 && !dec.ExpectSpecial(')') || !dec.ExpectCRLF() {
			return dec.Err()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.poll("APPEND"); err != nil {
		return err
	}
	if err := c.writeAppendOK(cmd.tag, data); err != nil {
		return err
	}
	return errAnswered
}

func readAppendOptions(dec *imapwire.Decoder, options *imap.AppendOptions) error {
	hasFlagList, err := dec.List(func() error {
		flag, err := imapwire.ExpectFlag(dec)
		options.Flags = append(options.Flags, flag)
		return err
	})
	if err != nil {
		return err
	}
	if hasFlagList && !dec.ExpectSP() {
		return dec.Err()
	}
	if options.Time, err = imapwire.DecodeDateTime(dec); err != nil {
		return err
	}
	if !options.Time.IsZero() && !dec.ExpectSP() {
		return dec.Err()
	}
	return nil
}

// readAppendExt reads what may stand before the literal: "~" of BINARY or
// "UTF8 (~" of RFC 6855.
func readAppendExt(dec *imapwire.Decoder) (utf8 bool, err error) {
	var ext string
	if dec.Special('~') || !dec.Atom(&ext) {
		return false, nil
	}
	if !strings.EqualFold(ext, "UTF8") {
		return false, newClientBugError("Unknown APPEND data extension")
	}
	if !dec.ExpectSP() || !dec.ExpectSpecial('(') || !dec.ExpectSpecial('~') {
		return false, dec.Err()
	}
	return true, nil
}

func (c *Conn) writeAppendOK(tag string, data *imap.AppendData) error {
	enc := newResponseEncoder(c)
	defer enc.end()
	enc.Atom(tag).SP().Atom("OK").SP()
	if data != nil {
		enc.Special('[').Atom("APPENDUID").SP().Number(data.UIDValidity).SP().UID(data.UID).Special(']').SP()
	}
	return enc.Text("APPEND completed").CRLF()
}
