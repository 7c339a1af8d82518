package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/keys"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/settings"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world has two organizations, red and blue, with a domain each, and a DNS
// without records.
type world struct {
	t     *testing.T
	state *settings.Memory
	deps  Deps
	table map[string]command.Command
	sent  []mail.Submission
	lag   time.Duration // the longest replay lag of a copy
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, state: settings.NewMemory(), table: map[string]command.Command{}}
	book := settings.New(w.state, nil)
	now := func() time.Time { return noon }
	for _, o := range []string{"red", "blue"} {
		if _, err := w.state.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "organizations/" + o, Value: []byte("{}")}}}); err != nil {
			t.Fatal(err)
		}
	}
	submit := func(_ context.Context, s mail.Submission) (mail.Receipt, error) {
		w.sent = append(w.sent, s)
		return mail.Receipt{Trace: s.Trace}, nil
	}
	w.deps = Deps{
		Agreed: w.state, Book: book, Now: now,
		Keys: keys.New(keys.Deps{Group: w.state, Book: book, Resolver: noDNS{}, Events: event.NewLog(slog.New(slog.DiscardHandler)), Now: now}),
		Quarantine: quarantine.New(quarantine.Deps{Store: &shelf{}, Boxes: w, Book: book, Agreed: w.state, Submit: submit,
			Now: now}),
		OrganizationOf: func(domain string) (org.OrganizationID, bool) {
			o, ok := strings.CutSuffix(domain, ".example")
			return org.OrganizationID(o), ok && (o == "red" || o == "blue")
		},
		Organizations: w.OrganizationIDs,
		Facts:         func(string) keys.Facts { return keys.Facts{Hosts: []string{"mx.postern.example"}} },
		Covers: func(before, after settings.Group) error {
			return after.Replaces(before, w.lag, 120*time.Hour)
		},
		SealPassword: func(o org.OrganizationID, name, password string) ([]byte, error) {
			return w.state.SealSecret("connector "+string(o)+"/"+name, []byte(password))
		},
		TestConnector: func(_ context.Context, c settings.Connector) ([]Trial, error) {
			return []Trial{{Host: c.Hosts[0], Step: "connect", OK: true}}, nil
		},
	}
	all := Commands(w.deps)
	if err := command.Check(all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		w.table[c.Name()] = c
	}
	return w
}

func (w *world) SystemMailbox(_ context.Context, o org.OrganizationID, _ string) (org.MailboxRef, error) {
	ref, _ := w.FindSystemMailbox(o, "")
	return ref, nil
}

func (w *world) FindSystemMailbox(o org.OrganizationID, _ string) (org.MailboxRef, bool) {
	var id org.MailboxID
	copy(id[:], o)
	return org.MailboxRef{ID: id, Database: "DB01"}, true
}

func (w *world) OrganizationIDs() []org.OrganizationID { return []org.OrganizationID{"blue", "red"} }

// as is a context of a caller: a role, and the organization it is bound to.
func (w *world) as(role command.Role, o string) context.Context {
	return command.WithCaller(w.t.Context(), command.Caller{Name: "tester", Roles: []command.Role{role}, Organization: o})
}

// call runs a command as a door does: "noun verb name=value name=value".
func (w *world) call(ctx context.Context, name string, params ...string) (any, error) {
	w.t.Helper()
	c, ok := w.table[name]
	if !ok {
		w.t.Fatalf("there is no %s", name)
	}
	caller := command.CallerOf(ctx)
	roles := c.Roles
	if len(caller.Roles) > 0 && !slices.Contains(roles, caller.Roles[0]) || caller.Organization != "" && !c.Scoped {
		return nil, kind.Errorf(kind.Denied, "%s is not for %s", name, caller.Roles)
	}
	p, err := command.ParamsOf(c.In)
	if err != nil {
		w.t.Fatal(err)
	}
	q := url.Values{}
	for _, s := range params {
		k, v, _ := strings.Cut(s, "=")
		q.Add(k, v)
	}
	in, err := p.FromValues(q)
	if err != nil {
		return nil, err
	}
	out, err := c.Run(ctx, in)
	if err == nil {
		if _, err := json.Marshal(out); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}
	return out, err
}

// do is call by an administrator of the servers that has to work.
func (w *world) do(name string, params ...string) any {
	w.t.Helper()
	out, err := w.call(w.as(command.ServerAdmin, ""), name, params...)
	if err != nil {
		w.t.Fatalf("%s %v: %v", name, params, err)
	}
	return out
}

// refuse is call that has to fail in a way.
func (w *world) refuse(ctx context.Context, want kind.Kind, text, name string, params ...string) {
	w.t.Helper()
	out, err := w.call(ctx, name, params...)
	if !kind.Is(err, want) || !strings.Contains(err.Error(), text) {
		w.t.Errorf("%s %v: %v, %v; want %s, %q", name, params, out, err, want, text)
	}
}

type noDNS struct{}

func (noDNS) TXT(_ context.Context, name string) ([]string, dns.Info, error) {
	return nil, dns.Info{}, kind.Errorf(kind.NotFound, "%s: no such name", name)
}

// shelf keeps messages as a mailbox store does, as far as a quarantine asks.
type shelf struct {
	mail.Store // the rest is not there
	all        []onShelf
}

type onShelf struct {
	at   org.MailboxID
	m    mail.Message
	body []byte
}

func (s *shelf) Deliver(_ context.Context, d mail.Delivery) ([]mail.Delivered, error) {
	n := len(s.all) + 1
	at := d.Recipients[0].Mailbox
	s.all = append(s.all, onShelf{at.ID, mail.Message{UID: mail.UID(n), Blob: mail.BlobID(n), Size: int64(len(d.Body)), InternalDate: d.Date}, bytes.Clone(d.Body)})
	return []mail.Delivered{{Mailbox: at, UID: mail.UID(n)}}, nil
}

func (s *shelf) Folders(context.Context, org.MailboxRef) ([]mail.Folder, error) {
	return []mail.Folder{{ID: 1, Name: "INBOX"}}, nil
}

func (s *shelf) Search(_ context.Context, at org.MailboxRef, r mail.SearchRequest) (out mail.Found, _ error) {
	for _, x := range s.all {
		t := x.m.Time().Unix()
		if x.at == at.ID && t >= r.Criteria.Since && (r.Criteria.Before == 0 || t < r.Criteria.Before) {
			out.UIDs = append(out.UIDs, x.m.UID)
		}
	}
	return out, nil
}

func (s *shelf) Messages(_ context.Context, at org.MailboxRef, r mail.MessagesRequest) (out mail.Messages, _ error) {
	for _, x := range s.all {
		if x.at == at.ID && slices.Contains(r.UIDs, mail.UIDRange{First: x.m.UID, Last: x.m.UID}) {
			out.Messages = append(out.Messages, x.m)
		}
	}
	return out, nil
}

func (s *shelf) Body(_ context.Context, _ org.MailboxRef, r mail.BodyRequest) ([]byte, error) {
	for _, x := range s.all {
		if x.m.Blob == r.Blob {
			return bytes.Clone(x.body[r.Offset : r.Offset+r.Length]), nil
		}
	}
	return nil, kind.Errorf(kind.NotFound, "no such blob")
}

func (s *shelf) Expunge(_ context.Context, _ org.MailboxRef, r mail.Expunge) (mail.Expunged, error) {
	s.all = slices.DeleteFunc(s.all, func(x onShelf) bool { return slices.Contains(r.UIDs, mail.UIDRange{First: x.m.UID, Last: x.m.UID}) })
	return mail.Expunged{}, nil
}

// text is what a door would show.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b)
}
