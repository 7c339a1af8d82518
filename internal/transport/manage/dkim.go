package manage

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/keys"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// KeyRow is a DKIM key as commands show it, with the TXT record that belongs
// into DNS.
type KeyRow struct {
	Selector  string    `json:"selector" col:"SELECTOR"`
	Domain    string    `json:"domain" col:"DOMAIN"`
	Algorithm string    `json:"algorithm" col:"ALGORITHM"`
	State     string    `json:"state" col:"STATE"`
	Since     time.Time `json:"since" col:"SINCE"`
	Created   time.Time `json:"created" col:"-"`
	Record    string    `json:"record" col:"TXT RECORD"`
	Value     string    `json:"value" col:"VALUE"`
}

func keyRows(all []settings.DKIMKey) []KeyRow {
	out := []KeyRow{}
	for _, k := range all {
		out = append(out, KeyRow{k.Selector, k.Domain, k.Algorithm, k.State, k.Since, k.Created, keys.RecordName(k), k.Public})
	}
	return out
}

type domainIn struct {
	Domain string `json:"domain" arg:"1" required:"true" scope:"domain" doc:"domain name" complete:"domain list"`
}

func dkimCommands(d Deps) []command.Command {
	type createIn struct {
		domainIn
		Algorithms []string `json:"algorithm" enum:"rsa-2048,ed25519" doc:"algorithm of the key (may be repeated); without, one of each"`
		Selector   string   `json:"selector" doc:"name of the key in DNS, for one algorithm; without, one is made"`
	}
	type listIn struct {
		Domain       string `json:"domain" scope:"domain" doc:"only of this domain" complete:"domain list"`
		Organization string `json:"organization" doc:"only of this organization" complete:"organization list"`
	}
	type removeIn struct {
		domainIn
		Selector string `json:"selector" arg:"2" required:"true" doc:"name of the key" complete:"dkim list"`
		DryRun   bool   `json:"dry_run" doc:"only show what would be done"`
	}
	create := example(changes("dkim", "create", "Make DKIM keys for a domain; they sign when DNS has answered with their records for an hour", byAdmins,
		func(ctx context.Context, in createIn) ([]KeyRow, error) {
			domain, _, err := d.domain(ctx, in.Domain)
			if err != nil {
				return nil, err
			}
			made, err := d.Keys.Create(ctx, domain, in.Selector, in.Algorithms...)
			return keyRows(made), err
		}), "postern dkim create example.com")
	list := reads("dkim", "list", "List DKIM keys and their records", func(ctx context.Context, in listIn) ([]KeyRow, error) {
		if in.Domain != "" {
			domain, _, err := d.domain(ctx, in.Domain)
			if err != nil {
				return nil, err
			}
			return keyRows(d.Book.Keys(domain)), nil
		}
		return keyRows(d.keysOf(ctx, org.OrganizationID(in.Organization))), nil
	})
	rotate := changes("dkim", "rotate", "Make the next DKIM keys of a domain; the present ones sign until the next do", byAdmins,
		func(ctx context.Context, in domainIn) ([]KeyRow, error) {
			domain, _, err := d.domain(ctx, in.Domain)
			if err != nil {
				return nil, err
			}
			made, err := d.Keys.Rotate(ctx, domain)
			return keyRows(made), err
		})
	remove := removes("dkim", "remove", "Remove a DKIM key at once; rotation does it by itself", byAdmins,
		func(ctx context.Context, in removeIn) (command.Plan, error) {
			domain, _, err := d.domain(ctx, in.Domain)
			if err != nil {
				return command.Plan{}, err
			}
			all := d.Book.Keys(domain)
			i := slices.IndexFunc(all, func(k settings.DKIMKey) bool { return k.Selector == in.Selector })
			if i < 0 {
				return command.Plan{}, noSuch("dkim key", in.Selector, "postern dkim list --domain "+domain)
			}
			return carryOut(in.DryRun, "remove dkim key", in.Selector+" of "+domain+", "+all[i].State, func() error { return d.Keys.Remove(ctx, domain, in.Selector) })
		})
	return []command.Command{create, list, rotate, remove, domainDNS(d)}
}

// keysOf are the keys of all domains a caller may see.
func (d Deps) keysOf(ctx context.Context, asked org.OrganizationID) []settings.DKIMKey {
	var out []settings.DKIMKey
	for _, k := range d.Book.AllKeys() {
		o, _ := d.OrganizationOf(k.Domain)
		if sees(ctx, o) && (asked == "" || o == asked) {
			out = append(out, k)
		}
	}
	return out
}

// includes are what SPF records name for other systems that mail goes out to and
// that then send as well (their manuals say so).
var includes = map[string]string{
	settings.KindExchangeOnline: "spf.protection.outlook.com",
	settings.KindGoogle:         "_spf.google.com",
}

func domainDNS(d Deps) command.Command {
	type in struct {
		domainIn
		Offline bool `json:"offline" doc:"only list the records, ask nobody"`
	}
	return reads("domain", "dns", "List the DNS records a domain should have and compare them with what DNS says",
		func(ctx context.Context, in in) ([]keys.Row, error) {
			domain, o, err := d.domain(ctx, in.Domain)
			if err != nil {
				return nil, err
			}
			f := d.Facts(domain)
			f.Domain, f.Keys = domain, d.Book.Keys(domain)
			for _, c := range d.Book.Connectors(o) {
				if name, ok := includes[c.Kind]; ok && c.Enabled && c.Direction != settings.DirectionIn && !slices.Contains(f.Includes, name) {
					f.Includes = append(slices.Clone(f.Includes), name)
				}
			}
			if !in.Offline {
				return d.Checker.Check(ctx, f), nil
			}
			out := []keys.Row{}
			for _, r := range keys.Expect(f) {
				out = append(out, keys.Row{Record: r, Status: keys.StatusUnchecked})
			}
			return out, nil
		})
}
