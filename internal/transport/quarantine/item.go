package quarantine

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/quarantine/mark"
	"github.com/postern-mail/postern/internal/transport/queue"
)

const (
	// Malware begins the reason of a message that holds some.
	Malware = "malware"
	// Door is where a released message comes from (mail.Origin): scanners and
	// rules let it pass.
	Door = "release"

	// maxRecipients of one entry; a message with more is kept in several.
	maxRecipients = 500
	// maxMark bounds our header field, in bytes.
	maxMark   = 512 << 10
	maxReason = 500
)

// Item is a message to be kept aside for one organization.
type Item = mark.Item

// Split makes the items of a message: one for each organization that has
// recipients of it. Recipients elsewhere belong to the organization that sends.
// What belongs to nobody is left out.
func Split(m queue.Message, rows []queue.RecipientRow, reason string, score float64) []Item {
	byOrg := map[org.OrganizationID][]mail.EnvelopeRecipient{}
	var order []org.OrganizationID
	for _, r := range rows {
		o := r.Organization
		if o == "" {
			o = m.Origin.Organization
		}
		if o == "" {
			continue
		}
		if _, seen := byOrg[o]; !seen {
			order = append(order, o)
		}
		byOrg[o] = append(byOrg[o], mail.EnvelopeRecipient{Address: r.Address, Notify: r.Notify, ORcpt: r.Original})
	}
	var out []Item
	for _, o := range order {
		for rcpts := range slices.Chunk(byOrg[o], maxRecipients) {
			it := Item{ID: m.ID, Trace: m.ID, Organization: o, Reason: oneLine(reason), Score: score, Malware: strings.HasPrefix(reason, Malware),
				Envelope: m.Envelope, Origin: m.Origin, Identity: m.Identity[:], Received: m.Received}
			it.Envelope.Recipients = rcpts
			it.ID = entryID(m.ID, rcpts)
			out = append(out, it)
		}
	}
	return out
}

// entryID names an entry: the message's trace with other last bytes, since
// recipients of one message may come into quarantine at different times.
func entryID(trace mail.TraceID, rcpts []mail.EnvelopeRecipient) mail.TraceID {
	sum := digest(addresses(rcpts)...)
	for i := range 4 {
		trace[12+i] ^= sum[i]
	}
	return trace
}

// oneLine is a reason in one line.
func oneLine(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "?")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

// arrived is when a trace was made, to the millisecond: entries lie under it.
func arrived(id mail.TraceID) time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}
