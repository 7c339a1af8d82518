package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// group is a group of one server and a witness, in memory.
type group struct {
	mu        sync.Mutex // guards the rest
	rows      map[string]cluster.Item
	view      *cluster.View
	changed   chan struct{}
	published map[string][]byte
	heard     map[string]time.Time
}

func newGroup() *group {
	g := &group{rows: map[string]cluster.Item{}, view: cluster.NewView(1, nil), changed: make(chan struct{}), published: map[string][]byte{}, heard: map[string]time.Time{}}
	put := func(key string, v any) cluster.Op {
		b, _ := json.Marshal(v)
		return cluster.Op{Key: key, Value: b}
	}
	_, _ = g.Commit(context.Background(), cluster.Txn{Then: []cluster.Op{
		put("servers/MBX1", org.Server{Name: "MBX1", Site: "A", Voter: true}), put("servers/W", org.Server{Name: "W", Site: "A", Witness: true, Voter: true}),
		put(mailbox.DatabaseKey("DB01"), org.Database{Name: "DB01"}), put(mailbox.DatabaseKey("DB02"), org.Database{Name: "DB02"}),
		{Key: "transport/settings", Value: []byte(`{"message_expiration":"48m","delay_notice":"4m"}`)}, // hours pass slowly, even here
	}})
	return g
}

func (g *group) Name() org.ServerName { return "MBX1" }
func (g *group) Site() org.SiteName   { return "A" }

func (g *group) View() *cluster.View {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.view
}

func (g *group) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *group) Commit(_ context.Context, t cluster.Txn) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range t.If {
		it, there := g.rows[c.Key]
		if c.Revision != it.Revision && (c.Revision != -1 || !there) {
			return 0, kind.Errorf(kind.Conflict, "%s changed", c.Key)
		}
	}
	revision := g.view.Revision() + 1
	for _, o := range t.Then {
		if o.Delete {
			delete(g.rows, o.Key)
		} else {
			g.rows[o.Key] = cluster.Item{Value: o.Value, Revision: revision}
		}
	}
	g.view = cluster.NewView(revision, maps.Clone(g.rows))
	close(g.changed)
	g.changed = make(chan struct{})
	return revision, nil
}

func (g *group) Sync(context.Context) error             { return nil }
func (g *group) Quorum() bool                           { return true }
func (g *group) LeaseValid() bool                       { return true }
func (g *group) Peers() []cluster.Peer                  { return nil }
func (g *group) PeersChanged() <-chan struct{}          { return g.Changed() }
func (g *group) Dead(org.ServerName) (string, bool)     { return "", false }
func (g *group) Alive(org.ServerName) bool              { return true }
func (g *group) RegisterService(*grpc.ServiceDesc, any) {}
func (g *group) DeriveSecret(purpose string) []byte     { return []byte("secret of " + purpose) }
func (g *group) Conn(org.ServerName) (*grpc.ClientConn, error) {
	return nil, kind.Errorf(kind.Busy, "there is nobody else")
}
func (g *group) SealSecret(purpose string, b []byte) ([]byte, error) {
	return append([]byte(purpose+":"), b...), nil
}
func (g *group) OpenSecret(purpose string, b []byte) ([]byte, error) {
	return bytes.TrimPrefix(b, []byte(purpose+":")), nil
}

func (g *group) Publish(section string, v []byte) { g.tell("MBX1", section, v) }

// tell has a server publish something.
func (g *group) tell(s org.ServerName, section string, v []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := string(s) + "/" + section
	g.published[key], g.heard[key] = v, time.Now()
}

func (g *group) Published(s org.ServerName, section string) ([]byte, time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := string(s) + "/" + section
	v, ok := g.published[key]
	return v, g.heard[key], ok
}

// agreed is the same for a directory.
type agreed struct{ *group }

func (a agreed) View() directory.View { return a.group.View() }

// store keeps messages in memory as mailboxes do.
type store struct {
	mail.Store // what transport does not ask for is not there

	mu    sync.Mutex // guards the rest
	boxes map[org.MailboxID][]mail.Delivery
	away  map[org.DatabaseName]bool
}

func (s *store) Setup(context.Context, org.MailboxRef, mail.MailboxSetup) error { return nil }

func (s *store) Usage(context.Context, org.MailboxRef) (mail.Usage, error) { return mail.Usage{}, nil }

func (s *store) Deliver(_ context.Context, d mail.Delivery) (out []mail.Delivered, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range d.Recipients {
		if s.away[r.Mailbox.Database] {
			return nil, kind.Errorf(kind.Busy, "%s is away", r.Mailbox.Database)
		}
		have := s.boxes[r.Mailbox.ID]
		if slices.ContainsFunc(have, func(h mail.Delivery) bool { return h.Identity == d.Identity }) {
			out = append(out, mail.Delivered{Mailbox: r.Mailbox, Duplicate: true})
			continue
		}
		s.boxes[r.Mailbox.ID] = append(have, d)
		out = append(out, mail.Delivered{Mailbox: r.Mailbox, UID: mail.UID(len(have) + 1)})
	}
	return out, nil
}

func (s *store) Folders(context.Context, org.MailboxRef) ([]mail.Folder, error) {
	return []mail.Folder{{ID: 1, Name: "INBOX"}}, nil
}

func (s *store) Search(_ context.Context, at org.MailboxRef, r mail.SearchRequest) (out mail.Found, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.boxes[at.ID] {
		if t := d.Date / int64(time.Second); t >= r.Criteria.Since && (r.Criteria.Before == 0 || t < r.Criteria.Before) {
			out.UIDs = append(out.UIDs, mail.UID(i+1))
		}
	}
	return out, nil
}

func (s *store) delivered(_ context.Context, at org.MailboxRef, identity [32]byte) (id mail.EmailID, there bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.boxes[at.ID] {
		if d.Identity == identity {
			return id, true, nil
		}
	}
	return id, false, nil
}

func (s *store) setAway(db org.DatabaseName, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away[db] = away
}

// world is one server with two organizations: red with ann and amy in DB01 and
// rob in DB02, blue with ben in DB01.
type world struct {
	*Mover
	t     *testing.T
	group *group
	dir   *directory.Directory
	store *store
	fs    *fsx.Mem
	ix    *vfs.MemFS
	boxes map[string]org.MailboxRef
	table map[string]command.Command
	n     int
	wish  wish
	end   func()
}

// inBubble runs a test of a world at a time of its own.
func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, group: newGroup(), store: &store{boxes: map[org.MailboxID][]mail.Delivery{}, away: map[org.DatabaseName]bool{}},
			fs: fsx.NewMem(), ix: vfs.NewMem(), boxes: map[string]org.MailboxRef{}}
		w.start()
		for _, x := range []struct {
			org, address string
			db           org.DatabaseName
		}{{"red", "ann@red.example", "DB01"}, {"red", "amy@red.example", "DB01"}, {"red", "rob@red.example", "DB02"}, {"blue", "ben@blue.example", "DB01"}} {
			w.mailbox(x.org, x.address, x.db)
		}
		defer func() { w.end() }()
		f(t, w)
	})
}

func (w *world) start() {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("TRANSPORT_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	events := event.NewLog(log)
	w.dir = directory.New(agreed{w.group}, directory.Options{Store: w.store, Log: log, Events: events, HashMemory: 64, HashPasses: 1,
		Health: directory.HealthOptions{Secret: []byte("health")}})
	m, err := New(Config{Dir: "queue", SegmentSize: 1 << 20, Reserve: 1 << 20, Hostname: "mx.red.example", Private: true, Drain: conf.Duration(time.Second),
		DNS: DNSConfig{Servers: []string{"127.0.0.1:9"}}},
		Deps{Group: w.group, Store: w.store, Delivered: w.store.delivered, DuplicateWindow: 120 * time.Hour, Directory: w.dir, Version: "test",
			FS: w.fs, IndexFS: w.ix, Component: w.wish.component, Log: log, Events: events, Metrics: prometheus.NewRegistry()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Mover, w.table = m, map[string]command.Command{}
	all := Commands(m)
	if err := command.Check(all); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range all {
		w.table[c.Name()] = c
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	<-m.Ready()
	var once sync.Once
	w.end = func() { once.Do(func() { cancel(); wg.Wait() }) }
	w.pass(time.Second)
}

// restart ends the process and starts another one.
func (w *world) restart() {
	w.t.Helper()
	w.end()
	w.start()
}

func (w *world) mailbox(o, address string, db org.DatabaseName) {
	w.t.Helper()
	a, err := mail.ParseAddress(address)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, ok := w.dir.OrganizationOf(a.Domain); !ok {
		if _, err := w.dir.CreateOrganization(w.t.Context(), org.OrganizationID(o), ""); err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.dir.AddDomain(w.t.Context(), org.OrganizationID(o), a.Domain); err != nil {
			w.t.Fatal(err)
		}
	}
	r, _, err := w.dir.CreateMailbox(w.t.Context(), directory.NewMailbox{Address: a, Password: "correct horse", Database: db})
	if err != nil {
		w.t.Fatal(err)
	}
	w.boxes[address] = r.Ref()
}

// pass lets time pass, and waits until everybody waits.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// rcpt is a recipient with its NOTIFY.
func rcpt(address, notify string) mail.EnvelopeRecipient {
	return mail.EnvelopeRecipient{Address: address, Notify: notify}
}

func (w *world) submission(from string, to ...mail.EnvelopeRecipient) mail.Submission {
	w.n++
	s := mail.Submission{Trace: mail.NewTraceID(time.Now()), Received: time.Now(), Priority: mail.PriorityNormal,
		Origin: mail.Origin{Door: "submission"}, Envelope: mail.Envelope{From: from, Recipients: to},
		Body: fmt.Appendf(nil, "From: <%s>\r\nTo: <%s>\r\nSubject: number %d\r\nMessage-ID: <%d@red.example>\r\n\r\nBody %d\r\n", from, to[0].Address, w.n, w.n, w.n)}
	s.Identity[0], s.Identity[1] = byte(w.n), 1
	if a, err := mail.ParseAddress(from); err == nil {
		s.Origin.Organization, _ = w.dir.OrganizationOf(a.Domain)
	}
	return s
}

func (w *world) send(from string, to ...mail.EnvelopeRecipient) mail.TraceID {
	w.t.Helper()
	s := w.submission(from, to...)
	if _, err := w.Accept(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	return s.Trace
}

// inbox is what a mailbox has.
func (w *world) inbox(address string) []mail.Delivery {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return slices.Clone(w.store.boxes[w.boxes[address].ID])
}

// reports are the notifications in a mailbox: what their status parts say.
func (w *world) reports(address string) (out []string) {
	for _, d := range w.inbox(address) {
		if !bytes.Contains(d.Body, []byte("report-type=delivery-status")) {
			continue
		}
		var said []string
		for line := range strings.SplitSeq(string(d.Body), "\r\n") {
			if v, ok := strings.CutPrefix(line, "Action: "); ok {
				said = append(said, v)
			}
		}
		out = append(out, strings.Join(said, " "))
	}
	return out
}

// rows are those of a message in the ledger.
func (w *world) rows(id mail.TraceID) []queue.RecipientRow {
	w.t.Helper()
	_, rows, err := w.queue.Message(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return rows
}

func (w *world) states(id mail.TraceID) string {
	w.t.Helper()
	var out []string
	for _, r := range w.rows(id) {
		out = append(out, r.State.String())
	}
	return strings.Join(out, " ")
}

// want checks the states of a message's rows.
func (w *world) want(id mail.TraceID, states string) {
	w.t.Helper()
	if got := w.states(id); got != states {
		w.t.Errorf("rows are %q, want %q", got, states)
	}
}

// as is a context of a caller: a role, and the organization it is bound to.
func (w *world) as(role command.Role, o string) context.Context {
	return command.WithCaller(w.t.Context(), command.Caller{Name: "tester", Roles: []command.Role{role}, Organization: o})
}

// call runs a command as a door does.
func (w *world) call(ctx context.Context, name string, params ...string) (any, error) {
	w.t.Helper()
	c, ok := w.table[name]
	if !ok {
		w.t.Fatalf("there is no %s", name)
	}
	caller := command.CallerOf(ctx)
	if len(c.Roles) > 0 && !slices.Contains(c.Roles, caller.Roles[0]) || caller.Organization != "" && !c.Scoped {
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
	return c.Run(ctx, in)
}

// do is call by an administrator of the servers that has to work.
func (w *world) do(name string, params ...string) any {
	w.t.Helper()
	out, err := w.call(w.as(command.ServerAdmin, ""), name, params...)
	if err != nil {
		w.t.Fatalf("%s %v: %v", name, params, err)
	}
	synctest.Wait()
	return out
}

// verified sees to it that the ledger agrees with all it names.
func (w *world) verified() {
	w.t.Helper()
	w.pass(time.Second) // what is Lazy is written
	if out, err := w.call(w.as(command.ServerAdmin, ""), "queue verify"); err != nil {
		w.t.Errorf("%v: %+v", err, out)
	}
}

// TestDeliver is the plain case.
func TestDeliver(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		id := w.send("rob@red.example", rcpt("ann@red.example", ""), rcpt("ben@blue.example", "SUCCESS"))
		w.want(id, "delivered delivered")
		if len(w.inbox("ann@red.example")) != 1 || len(w.inbox("ben@blue.example")) != 1 {
			t.Error("not delivered once")
		}
		if got := w.reports("rob@red.example"); !slices.Equal(got, []string{"delivered"}) {
			t.Errorf("reports %q", got)
		}
		w.verified()
	})
}
