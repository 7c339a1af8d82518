package notify

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

type channelArgs struct {
	Name    string        `json:"name" arg:"1" required:"true" doc:"name of the channel"`
	Kind    Kind          `json:"kind" required:"true" enum:"email,webhook,sms" doc:"the way it goes"`
	Address string        `json:"address" required:"true" doc:"email: host:port of a mail server that is not of this group; webhook and sms: the URL to post to"`
	TLS     TLS           `json:"tls" enum:"verify,encrypt,none" default:"verify" doc:"verify: with a good certificate; encrypt: whatever the certificate; none: in clear"`
	From    string        `json:"from" doc:"sender address; for sms what {from} stands for"`
	To      []string      `json:"to" doc:"who is told: addresses or telephone numbers"`
	User    string        `json:"user" doc:"log in as; for sms what {user} stands for"`
	Secret  string        `json:"secret" secret:"true" doc:"password, or the key that signs webhooks; kept sealed"`
	Form    []string      `json:"form" doc:"sms: fields to post as name=value, with {to} {from} {text} {user} {secret} in the values; to={to} and text={text} when not given"`
	Timeout time.Duration `json:"timeout" default:"10s" doc:"time for one message"`
	PerHour int           `json:"per_hour" default:"30" doc:"most messages in an hour; then one summary"`
}

type setChannelArgs struct {
	Name     string         `json:"name" arg:"1" required:"true" complete:"notify channel list" doc:"name of the channel"`
	Address  string         `json:"address" doc:"host:port or URL"`
	TLS      TLS            `json:"tls" enum:"verify,encrypt,none" doc:"what is wanted of the way"`
	From     *string        `json:"from" doc:"sender address"`
	To       []string       `json:"to" doc:"who is told; replaces all"`
	User     *string        `json:"user" doc:"log in as"`
	Secret   *string        `json:"secret" secret:"true" doc:"password or key; empty: none"`
	Form     []string       `json:"form" doc:"sms: fields to post; replaces all"`
	Timeout  *time.Duration `json:"timeout" doc:"time for one message"`
	PerHour  *int           `json:"per_hour" doc:"most messages in an hour"`
	Disabled *bool          `json:"disabled" doc:"tell nothing through it"`
}

type channelName struct {
	Name string `json:"name" arg:"1" required:"true" complete:"notify channel list" doc:"name of the channel"`
}

// ChannelInfo is a row of notify channel list.
type ChannelInfo struct {
	Name     string         `json:"name" col:"NAME"`
	Kind     Kind           `json:"kind" col:"KIND"`
	Address  string         `json:"address" col:"ADDRESS"`
	To       []string       `json:"to,omitempty" col:"-"`
	Disabled bool           `json:"disabled,omitempty" col:"DISABLED"`
	Owner    org.ServerName `json:"owner,omitempty" col:"OWNER"` // who sends
	LastHour int            `json:"last_hour" col:"HOUR"`        // messages in it
	PerHour  int            `json:"per_hour" col:"LIMIT"`
	LastOK   *time.Time     `json:"last_ok,omitempty" col:"LAST-OK"`
	Error    string         `json:"error,omitempty" col:"ERROR"`
	Secret   bool           `json:"secret" col:"-"` // there is one
	TLS      TLS            `json:"tls" col:"-"`
	From     string         `json:"from,omitempty" col:"-"`
	User     string         `json:"user,omitempty" col:"-"`
	Form     []string       `json:"form,omitempty" col:"-"`
	Timeout  time.Duration  `json:"timeout" col:"-"`
}

// Commands are the room's entries of the command table. n may be nil for
// listing them.
func Commands(n *Notifier) []command.Command {
	return slices.Concat(channelCommands(n), ruleCommands(n), alertCommands(n))
}

func readers() []command.Role { return []command.Role{command.ServerAdmin, command.Auditor} }

func channelCommands(n *Notifier) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "notify", Verb: "channel add", Short: "Add a way to tell people outside that something is wrong", Changes: true,
			Long: "E-mail goes to the named mail server, which must not be one of this group: that may be what failed. A webhook gets JSON, signed by HMAC-SHA256 with the secret (headers X-Postern-Time and X-Postern-Signature). " +
				"An SMS gateway gets an HTTP form. Nothing is told before a rule names the channel (notify rule add); try it with notify channel test.",
			Example: "postern notify channel add ops --kind email --address smtp.provider.example:587 --from postern@example.com --to ops@other.example --user postern --secret-file /root/smtp-password"},
			func(ctx context.Context, in channelArgs) (command.None, error) {
				return command.None{}, n.addChannel(ctx, in)
			}),
		command.New(command.Command{Noun: "notify", Verb: "channel list", Short: "List the notification channels and how they do", Roles: readers(), Example: "postern notify channel list"},
			func(context.Context, command.None) ([]ChannelInfo, error) { return n.channels(), nil }),
		command.New(command.Command{Noun: "notify", Verb: "channel set", Short: "Change a notification channel", Changes: true,
			Example: "postern notify channel set ops --to ops@other.example --to duty@other.example"},
			func(ctx context.Context, in setChannelArgs) (command.None, error) {
				return command.None{}, n.setChannel(ctx, in)
			}),
		command.New(command.Command{Noun: "notify", Verb: "channel remove", Short: "Remove a notification channel", Changes: true, Example: "postern notify channel remove chat"},
			func(ctx context.Context, in channelName) (command.None, error) {
				return command.None{}, n.removeChannel(ctx, in.Name)
			}),
		command.New(command.Command{Noun: "notify", Verb: "channel test", Short: "Send a test through a channel now, from the server that is asked", Changes: true,
			Long:    "Tells at once whether the endpoint took it, and what it said if not. The other servers try their way once a week by themselves.",
			Example: "postern notify channel test ops"},
			func(ctx context.Context, in channelName) (command.None, error) {
				return command.None{}, n.testChannel(ctx, in.Name)
			}),
	}
}

// ready refuses commands of a server that has no such room.
func (n *Notifier) channel(name string) (held[Channel], error) {
	h, ok := newReader(n.d.Rows).read().channels[name]
	if !ok {
		return h, kind.WithHint(kind.Errorf(kind.NotFound, "there is no channel %.60q", name), "postern notify channel list")
	}
	return h, nil
}

func (n *Notifier) seal(c *Channel, secret string) (err error) {
	c.Secret = nil
	if secret == "" {
		return nil
	}
	if len(secret) > 1000 {
		return bad("channel %s: the secret is longer than 1000 bytes", c.Name)
	}
	if c.Secret, err = n.d.Secrets.SealSecret(purpose(c.Name), []byte(secret)); err != nil {
		return kind.Errorf(kind.Of(err), "seal the secret of channel %s: %w", c.Name, err)
	}
	return nil
}

// put checks a channel and writes it.
func (n *Notifier) put(ctx context.Context, h held[Channel]) error {
	c := h.value.withDefaults()
	if err := c.validate(); err != nil {
		return err
	}
	if c.Kind == Email {
		if err := n.outside(ctx, c); err != nil {
			return err
		}
	}
	c.Changed, c.By = time.Now().UTC(), command.CallerOf(ctx).Name
	return n.commit(ctx, change{channelPrefix + c.Name, h.revision, c})
}

func (n *Notifier) addChannel(ctx context.Context, in channelArgs) error {
	s := newReader(n.d.Rows).read()
	switch _, exists := s.channels[in.Name]; {
	case exists:
		return kind.Errorf(kind.Exists, "channel %s exists", in.Name)
	case len(s.channels) >= maxChannels:
		return bad("there are %d channels, which is the most", maxChannels)
	}
	c := Channel{Name: in.Name, Kind: in.Kind, Address: in.Address, TLS: in.TLS, From: in.From, To: in.To, User: in.User, Form: in.Form, Timeout: in.Timeout, PerHour: in.PerHour}
	if err := n.seal(&c, in.Secret); err != nil {
		return err
	}
	return n.put(ctx, held[Channel]{value: c})
}

func (n *Notifier) setChannel(ctx context.Context, in setChannelArgs) error {
	h, err := n.channel(in.Name)
	if err != nil {
		return err
	}
	c := &h.value
	c.Address, c.TLS = cmp.Or(in.Address, c.Address), cmp.Or(in.TLS, c.TLS)
	if in.From != nil {
		c.From = *in.From
	}
	if in.To != nil {
		c.To = in.To
	}
	if in.User != nil {
		c.User = *in.User
	}
	if in.Form != nil {
		c.Form = in.Form
	}
	if in.Timeout != nil {
		c.Timeout = *in.Timeout
	}
	if in.PerHour != nil {
		c.PerHour = *in.PerHour
	}
	if in.Disabled != nil {
		c.Disabled = *in.Disabled
	}
	if in.Secret != nil {
		if err := n.seal(c, *in.Secret); err != nil {
			return err
		}
	}
	return n.put(ctx, h)
}

func (n *Notifier) removeChannel(ctx context.Context, name string) error {
	s := newReader(n.d.Rows).read()
	h, ok := s.channels[name]
	if !ok {
		return kind.WithHint(kind.Errorf(kind.NotFound, "there is no channel %.60q", name), "postern notify channel list")
	}
	for _, r := range rulesOf(s) {
		used := slices.Contains(r.Channels, name)
		for _, e := range r.Escalate {
			used = used || slices.Contains(e.Channels, name)
		}
		if used {
			return kind.WithHint(kind.Errorf(kind.Invalid, "channel %s: rule %s tells through it", name, r.Name), "postern notify rule set "+r.Name+" --channels ..., or remove the rule")
		}
	}
	changes := []change{{key: channelPrefix + name, revision: h.revision}}
	if st, ok := s.states[name]; ok {
		changes = append(changes, change{key: statePrefix + name, revision: st.revision})
	}
	return n.commit(ctx, changes...)
}

func (n *Notifier) testChannel(ctx context.Context, name string) error {
	h, err := n.channel(name)
	if err != nil {
		return err
	}
	m := Message{Channel: name, Reason: Test, Server: n.me, Time: time.Now().UTC()}
	if err := n.sendOnce(ctx, h.value, m); err != nil {
		return kind.Errorf(kind.Of(err), "test of channel %s from %s: %w", name, n.me, err)
	}
	return nil
}

func (n *Notifier) channels() []ChannelInfo {
	s := newReader(n.d.Rows).read()
	now := time.Now()
	out := []ChannelInfo{}
	for _, h := range s.channels {
		c, st := h.value, s.states[h.value.Name].value
		i := ChannelInfo{Name: c.Name, Kind: c.Kind, Address: c.Address, To: c.To, Disabled: c.Disabled, Owner: st.Owner, LastHour: len(inLastHour(st.Sent, now)),
			PerHour: c.PerHour, Error: st.Error, Secret: len(c.Secret) > 0, TLS: c.TLS, From: c.From, User: c.User, Form: c.Form, Timeout: c.Timeout}
		if !st.LastOK.IsZero() {
			i.LastOK = &st.LastOK
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b ChannelInfo) int { return strings.Compare(a.Name, b.Name) })
	return out
}
