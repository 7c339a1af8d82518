package imapserver

import (
	"errors"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

var errTooManyErrors = errors.New("too many errors in a row")

// command is what a handler gets: the rest of the line and the tag.
type command struct {
	tag, name string
	dec       *imapwire.Decoder
	kind      NumKind // UID commands
	unknown   bool
}

// answered is returned by handlers that have written the tagged answer.
var errAnswered = errors.New("answered")

// readCommand reads and answers one command. The error is nil unless the
// connection has to end.
func (c *Conn) readCommand() error {
	dec := imapwire.NewDecoder(c.br, c.limits())
	dec.Continue = func() error {
		return c.writeContReq("Ready for literal data")
	}
	cmd := command{tag: "*", dec: dec, kind: NumKindSeq}
	begun := time.Now()
	err := c.readName(&cmd)
	if err == nil {
		if err = c.handle(&cmd); err == nil {
			err = c.poll(cmd.name)
		}
	}
	resp, err := c.answer(&cmd, err)
	c.count(&cmd, resp, err, time.Since(begun))
	if err != nil {
		return err
	}
	if resp != nil && resp.Type == imap.StatusResponseTypeBad {
		c.errors++
	} else {
		c.errors = 0
	}
	if resp != nil {
		if err := dec.Recover(); err != nil {
			return err
		}
		if err := c.writeStatusResp(cmd.tag, resp); err != nil {
			return err
		}
	}
	max := c.server.options.PostAuthErrors
	if c.state == imap.ConnStateNotAuthenticated {
		max = c.server.options.PreAuthErrors
	}
	if c.errors >= max {
		return errTooManyErrors
	}
	return nil
}

// answer makes the tagged answer from what a handler returned. Errors it
// cannot answer, those of the connection, are returned.
func (c *Conn) answer(cmd *command, err error) (*imap.StatusResponse, error) {
	var refused *imap.Error
	var syntax *imapwire.SyntaxError
	switch {
	case errors.Is(err, errAnswered):
		return nil, nil
	case err == nil:
		return &imap.StatusResponse{Type: imap.StatusResponseTypeOK, Text: cmd.name + " completed"}, nil
	case errors.As(err, &refused):
		return (*imap.StatusResponse)(refused), nil
	case errors.As(err, &syntax):
		code := syntax.Code
		if code == "" {
			code = imap.ResponseCodeClientBug
		}
		return &imap.StatusResponse{Type: imap.StatusResponseTypeBad, Code: code, Text: "Syntax error: " + printable(syntax.Message)}, nil
	}
	return nil, err
}

func (c *Conn) count(cmd *command, resp *imap.StatusResponse, err error, took time.Duration) {
	f := c.server.options.OnCommand
	if f == nil || cmd.name == "IDLE" && err == nil {
		return // how long IDLE takes says nothing
	}
	result := "OK"
	switch {
	case err != nil:
		result = "end"
	case resp != nil:
		result = string(resp.Type)
	}
	name := cmd.name
	if cmd.unknown || result == "BAD" || result == "end" {
		name = "" // may be anything
	}
	f(name, result, took)
}

// printable keeps a text that quotes the client within one line of ASCII.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func isTagChar(ch byte) bool {
	return ch != '+' && imapwire.IsAtomChar(ch) && ch < 0x80
}

func (c *Conn) readName(cmd *command) error {
	dec := cmd.dec
	var tag string
	if !dec.Expect(dec.Func(&tag, isTagChar), "tag") {
		return dec.Err()
	}
	if len(tag) <= 64 {
		cmd.tag = tag
	}
	if !dec.ExpectSP() || !dec.ExpectAtom(&cmd.name) {
		return dec.Err()
	}
	cmd.name = strings.ToUpper(cmd.name)
	if cmd.name == "UID" {
		cmd.kind = NumKindUID
		var sub string
		if !dec.ExpectSP() || !dec.ExpectAtom(&sub) {
			return dec.Err()
		}
		cmd.name = "UID " + strings.ToUpper(sub)
	}
	return nil
}

func (c *Conn) handle(cmd *command) error {
	dec := cmd.dec
	switch cmd.name {
	case "NOOP", "CHECK":
		return c.handleNoop(dec)
	case "LOGOUT":
		return c.handleLogout(dec)
	case "CAPABILITY":
		return c.handleCapability(dec)
	case "STARTTLS":
		return c.handleStartTLS(cmd)
	case "AUTHENTICATE":
		return c.handleAuthenticate(cmd)
	case "LOGIN":
		return c.handleLogin(cmd)
	case "ENABLE":
		return c.handleEnable(dec)
	case "CREATE":
		return c.handleCreate(dec)
	case "DELETE", "SUBSCRIBE", "UNSUBSCRIBE":
		return c.handleNamed(cmd)
	case "RENAME":
		return c.handleRename(dec)
	case "STATUS":
		return c.handleStatus(dec)
	case "LIST":
		return c.handleList(dec)
	case "LSUB":
		return c.handleLSub(dec)
	case "NAMESPACE":
		return c.handleNamespace(dec)
	case "IDLE":
		return c.handleIdle(dec)
	case "SELECT", "EXAMINE":
		return c.handleSelect(cmd)
	case "CLOSE", "UNSELECT":
		return c.handleUnselect(dec, cmd.name == "CLOSE")
	case "APPEND":
		return c.handleAppend(cmd)
	case "FETCH", "UID FETCH":
		return c.handleFetch(dec, cmd.kind)
	case "EXPUNGE":
		return c.handleExpunge(dec)
	case "UID EXPUNGE":
		return c.handleUIDExpunge(dec)
	case "STORE", "UID STORE":
		return c.handleStore(dec, cmd.kind)
	case "COPY", "UID COPY":
		return c.handleCopy(cmd)
	case "MOVE", "UID MOVE":
		return c.handleMove(dec, cmd.kind)
	case "SEARCH", "UID SEARCH":
		return c.handleSearch(cmd)
	}
	cmd.unknown = true
	if c.state == imap.ConnStateNotAuthenticated {
		// Not a single unknown command before login, against other protocols
		// being sent here: the answer is the last one.
		c.state = imap.ConnStateLogout
		c.writeStatusResp("", &imap.StatusResponse{Type: imap.StatusResponseTypeBye, Text: "Unknown command"})
	}
	return &imap.Error{Type: imap.StatusResponseTypeBad, Text: "Unknown command"}
}

func (c *Conn) handleNoop(dec *imapwire.Decoder) error {
	if !dec.ExpectCRLF() {
		return dec.Err()
	}
	return nil
}

func (c *Conn) handleLogout(dec *imapwire.Decoder) error {
	if !dec.ExpectCRLF() {
		return dec.Err()
	}
	c.state = imap.ConnStateLogout
	return c.writeStatusResp("", &imap.StatusResponse{Type: imap.StatusResponseTypeBye, Text: "Logging out"})
}

func (c *Conn) handleNamed(cmd *command) error {
	dec := cmd.dec
	var name string
	if !dec.ExpectSP() || !dec.ExpectMailbox(&name) || !dec.ExpectCRLF() {
		return dec.Err()
	}
	if err := c.checkState(imap.ConnStateAuthenticated); err != nil {
		return err
	}
	switch cmd.name {
	case "DELETE":
		return c.session.Delete(name)
	case "SUBSCRIBE":
		return c.session.Subscribe(name)
	}
	return c.session.Unsubscribe(name)
}

func (c *Conn) handleRename(dec *imapwire.Decoder) error {
	var oldName, newName string
	if !dec.ExpectSP() || !dec.ExpectMailbox(&oldName) || !dec.ExpectSP() || !dec.ExpectMailbox(&newName) || !dec.ExpectCRLF() {
		return dec.Err()
	}
	if err := c.checkState(imap.ConnStateAuthenticated); err != nil {
		return err
	}
	return c.session.Rename(oldName, newName)
}

func (c *Conn) canAuth() bool {
	return c.state == imap.ConnStateNotAuthenticated && (c.IsTLS() || c.server.options.InsecureAuth)
}

func (c *Conn) checkState(state imap.ConnState) error {
	if c.state == state || state == imap.ConnStateAuthenticated && c.state == imap.ConnStateSelected {
		return nil
	}
	return newClientBugError("This command is only valid in the " + state.String() + " state")
}

// poll lets the session tell what happened meanwhile. EXPUNGE may not be told
// during FETCH, STORE and SEARCH (RFC 9051 section 7.5.1).
func (c *Conn) poll(cmd string) error {
	if c.state != imap.ConnStateAuthenticated && c.state != imap.ConnStateSelected {
		return nil
	}
	allowExpunge, ask := true, false
	switch cmd {
	case "FETCH", "STORE", "SEARCH":
		allowExpunge = false
	case "NOOP", "CHECK":
		ask = true
	case "IDLE": // has just told all
		return nil
	}
	return c.session.Poll(&UpdateWriter{conn: c, allowExpunge: allowExpunge}, allowExpunge, ask)
}
