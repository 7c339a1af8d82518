package manage

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Trial is what became of one step of a connector's test.
type Trial struct {
	Host   string `json:"host" col:"HOST"`
	Step   string `json:"step" col:"STEP"`
	OK     bool   `json:"ok" col:"OK"`
	Detail string `json:"detail,omitempty" col:"DETAIL"`
}

// ConnectorRow is a connector as commands show it.
type ConnectorRow struct {
	Name         string             `json:"name" col:"CONNECTOR"`
	Organization org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	Kind         string             `json:"kind" col:"KIND"`
	Direction    string             `json:"direction" col:"DIRECTION"`
	Enabled      bool               `json:"enabled" col:"ENABLED"`
	Hosts        []string           `json:"hosts" col:"HOSTS"`
	Networks     []string           `json:"networks" col:"-"`
	Certificates []string           `json:"certificate_names" col:"-"`
	Domains      []string           `json:"domains" col:"DOMAINS"`
	Password     bool               `json:"password" col:"-"` // one is stored
}

func connectorRow(c settings.Connector) ConnectorRow {
	out := ConnectorRow{Name: c.Name, Organization: c.Organization, Kind: c.Kind, Direction: c.Direction, Enabled: c.Enabled,
		Hosts: append([]string{}, c.Hosts...), Networks: []string{}, Certificates: append([]string{}, c.CertificateNames...),
		Domains: append([]string{}, c.Domains...), Password: len(c.Password) > 0}
	for _, n := range c.Networks {
		out.Networks = append(out.Networks, n.String())
	}
	return out
}

type connectorIn struct {
	Organization string `json:"organization" arg:"1" required:"true" doc:"organization" complete:"organization list"`
	Name         string `json:"name" arg:"2" required:"true" doc:"name of the connector" complete:"connector list"`
}

type connectorCreateIn struct {
	Organization string   `json:"organization" arg:"1" required:"true" doc:"organization" complete:"organization list"`
	Name         string   `json:"name" arg:"2" required:"true" doc:"name of the connector"`
	Kind         string   `json:"kind" required:"true" enum:"exchange-online,google,smtp" doc:"what is at the other end"`
	Direction    string   `json:"direction" required:"true" enum:"in,out,both" doc:"mail comes in by it, goes out by it, or both"`
	Hosts        []string `json:"hosts" doc:"host that mail goes out to (may be repeated)"`
	Domains      []string `json:"domains" doc:"domain of recipients whose mail goes out here (may be repeated)"`
	Networks     []string `json:"networks" doc:"network that mail comes in from (may be repeated)"`
	Names        []string `json:"certificate_names" doc:"name of a client certificate that mail comes in with (may be repeated)"`
	Certificate  string   `json:"client_certificate" doc:"certificate that is shown to the hosts"`
	User         string   `json:"user" doc:"login at the hosts"`
	Password     string   `json:"password" secret:"true" doc:"its password"`
	Disabled     bool     `json:"disabled" doc:"no mail goes through it yet"`
}

// connector makes the row that the parameters describe.
func (in connectorCreateIn) connector(o org.OrganizationID) (settings.Connector, error) {
	c := settings.Connector{Name: in.Name, Organization: o, Enabled: !in.Disabled, Direction: in.Direction, Kind: in.Kind,
		Hosts: in.Hosts, Domains: in.Domains, CertificateNames: in.Names, ClientCertificate: in.Certificate, User: in.User}
	if err := c.Set("networks", strings.Join(in.Networks, ",")); err != nil {
		return c, err
	}
	if in.Kind == settings.KindExchangeOnline && in.Direction != settings.DirectionIn {
		// It knows tenants by IPv4 addresses, and all hosts have this certificate.
		c.VerifyName, c.IPv4Only = "*.mail.protection.outlook.com", true
	}
	return c, c.Validate()
}

// connectorCommands change connectors for administrators of the servers only: one
// that takes mail in lets others send, one that goes out names hosts to connect to.
func connectorCommands(d Deps) []command.Command {
	type listIn struct {
		Organization string `json:"organization" doc:"only of this organization" complete:"organization list"`
	}
	return []command.Command{
		example(changes("connector", "create", "Connect an organization with another mail system", byServer, d.createConnector),
			"postern connector create acme exchange --kind exchange-online --direction out --hosts acme-example.mail.protection.outlook.com"),
		reads("connector", "list", "List the connectors to other mail systems", func(ctx context.Context, in listIn) ([]ConnectorRow, error) {
			out := []ConnectorRow{}
			for _, o := range d.inScope(ctx, in.Organization) {
				for _, c := range d.Book.Connectors(o) {
					out = append(out, connectorRow(c))
				}
			}
			return out, nil
		}),
		reads("connector", "show", "Show all settings of a connector", func(ctx context.Context, in connectorIn) ([]settings.Setting, error) {
			c, _, err := d.findConnector(ctx, d.Agreed.View(), in.Organization, in.Name)
			return settings.List(c), err
		}),
		d.setConnector(),
		d.removeConnector(),
		changes("connector", "test", "Try whether the hosts of a connector can be reached and prove who they are; no mail is sent", byServer,
			func(ctx context.Context, in connectorIn) ([]Trial, error) {
				if _, _, err := d.findConnector(ctx, d.Agreed.View(), in.Organization, in.Name); err != nil {
					return nil, err
				}
				c, ok := d.Book.Connector(org.OrganizationID(in.Organization), in.Name)
				if !ok || c.Direction == settings.DirectionIn {
					return nil, kind.Errorf(kind.Invalid, "connector %s of %s: no mail goes out by it", in.Name, in.Organization)
				}
				return d.TestConnector(ctx, c)
			}),
	}
}

// findConnector reads a connector as it is stored.
func (d Deps) findConnector(ctx context.Context, v *cluster.View, o, name string) (settings.Connector, int64, error) {
	var c settings.Connector
	var revision int64
	var err error
	if org.ValidName(o) == nil && org.ValidName(name) == nil && sees(ctx, org.OrganizationID(o)) {
		c, revision, err = settings.Read[settings.Connector](v, settings.ConnectorKey(org.OrganizationID(o), name))
	}
	if err == nil && revision == 0 {
		err = noSuch("connector", name, "postern connector list")
	}
	return c, revision, err
}

func (d Deps) createConnector(ctx context.Context, in connectorCreateIn) (ConnectorRow, error) {
	o, err := d.organization(ctx, in.Organization)
	if err != nil {
		return ConnectorRow{}, err
	}
	c, err := in.connector(o)
	if err != nil {
		return ConnectorRow{}, err
	}
	if in.Password != "" {
		if c.Password, err = d.SealPassword(o, c.Name, in.Password); err != nil {
			return ConnectorRow{}, err
		}
	}
	err = settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
		key := settings.ConnectorKey(o, c.Name)
		if _, taken := v.Get(key); taken {
			return kind.WithHint(kind.Errorf(kind.Exists, "connector %s of %s exists", c.Name, o), "postern connector set")
		}
		if n := count(v, settings.ConnectorPrefix+string(o)+"/"); n >= settings.MaxConnectors {
			return kind.Errorf(kind.Full, "organization %s has %d connectors, the most is %d", o, n, settings.MaxConnectors)
		}
		return created(v, t, o, key, c)
	})
	return connectorRow(c), err
}

func (d Deps) setConnector() command.Command {
	type setIn struct {
		connectorIn
		Setting  string `json:"setting" arg:"3" doc:"name of the setting"`
		Value    string `json:"value" arg:"4" doc:"its value; default takes it back"`
		Password string `json:"password" secret:"true" doc:"another password, instead of a setting"`
	}
	return example(changes("connector", "set", "Change a setting of a connector", byServer, func(ctx context.Context, in setIn) (ConnectorRow, error) {
		if (in.Setting == "") == (in.Password == "") || in.Setting != "" && in.Value == "" {
			return ConnectorRow{}, kind.Errorf(kind.Invalid, "give a setting with its value, or a password")
		}
		var out settings.Connector
		var sealed []byte
		if in.Password != "" {
			var err error
			if sealed, err = d.SealPassword(org.OrganizationID(in.Organization), in.Name, in.Password); err != nil {
				return ConnectorRow{}, err
			}
		}
		err := settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
			c, revision, err := d.findConnector(ctx, v, in.Organization, in.Name)
			if err != nil {
				return err
			}
			if sealed != nil {
				c.Password = sealed
			} else if err := c.Set(in.Setting, in.Value); err != nil {
				return err
			}
			if err := c.Validate(); err != nil {
				return err
			}
			out = c
			return t.Put(settings.ConnectorKey(c.Organization, c.Name), revision, c)
		})
		return connectorRow(out), err
	}), "postern connector set acme exchange enabled false\npostern connector set acme relay networks 192.0.2.0/24")
}

func (d Deps) removeConnector() command.Command {
	type removeIn struct {
		connectorIn
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	return removes("connector", "remove", "Remove a connector; mail that waits for it takes another way", byServer,
		func(ctx context.Context, in removeIn) (command.Plan, error) {
			if _, _, err := d.findConnector(ctx, d.Agreed.View(), in.Organization, in.Name); err != nil {
				return command.Plan{}, err
			}
			return carryOut(in.DryRun, "remove connector", in.Organization+"/"+in.Name, func() error {
				return settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
					_, revision, err := d.findConnector(ctx, v, in.Organization, in.Name)
					if err == nil {
						t.Drop(settings.ConnectorKey(org.OrganizationID(in.Organization), in.Name), revision)
					}
					return err
				})
			})
		})
}
