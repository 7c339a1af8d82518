package load

import (
	"bytes"
	"strings"
)

// Returned reads a report to a sender (RFC 3464) about a message of this load: the
// recipients that it could not be delivered to.
func Returned(raw []byte) (id ID, recipients []string, ok bool) {
	head, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !bytes.Contains(head, []byte("report-type=delivery-status")) {
		return "", nil, false
	}
	recipient := ""
	for line := range strings.Lines(string(body)) {
		line = strings.TrimRight(line, "\r\n")
		if rest, is := strings.CutPrefix(line, "Final-Recipient: rfc822;"); is {
			recipient = strings.TrimSpace(rest)
		}
		if strings.TrimSpace(line) == "Action: failed" && recipient != "" {
			recipients = append(recipients, recipient)
			recipient = ""
		}
		if rest, is := strings.CutPrefix(line, firstLine); is && id == "" {
			id = ID(rest)
		}
	}
	return id, recipients, id != "" && len(recipients) > 0
}
