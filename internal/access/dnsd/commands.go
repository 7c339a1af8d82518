package dnsd

import (
	"context"
	"net/netip"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/org"
)

// Info is a row of dns show.
type Info struct {
	Server     org.ServerName `json:"server" col:"SERVER"`
	Addresses  []netip.Addr   `json:"addresses" col:"ADDRESSES"`
	SMTP       bool           `json:"smtp" col:"SMTP"`
	Submission bool           `json:"submission" col:"SUBMISSION"`
	IMAP       bool           `json:"imap" col:"IMAP"`
	DNS        bool           `json:"dns" col:"DNS"` // it answers itself
	Why        string         `json:"why,omitempty" col:"WHY"`
}

// Commands are the door's entries of the command table. list may be nil for
// listing them.
func Commands(list func() []Server) []command.Command {
	return []command.Command{command.New(command.Command{Noun: "dns", Verb: "show", Short: "Show which servers the DNS door answers with, and why not the others",
		Long:    "Every server knows, whether it has a DNS door of its own or not. When no server is good for a service all are answered.",
		Example: "postern dns show", Roles: []command.Role{command.ServerAdmin, command.Auditor}},
		func(context.Context, command.None) ([]Info, error) {
			out := []Info{}
			for _, s := range list() {
				out = append(out, Info{s.Name, s.Addrs, s.Good[SMTP], s.Good[Submission], s.Good[IMAP], s.DNS, s.Why})
			}
			return out, nil
		})}
}
