package settings

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

const (
	// maxRows is how many decoded rows of a kind are kept; beyond it, some are
	// decoded again when asked for.
	maxRows = 20_000
	// maxLists is how many ready lists of a kind are kept.
	maxLists = 4_096
)

// State is the agreed state as the book reads it; *cluster.Cluster is one.
type State interface {
	View() *cluster.View
	// Changed is closed at the next change of the view.
	Changed() <-chan struct{}
}

// Book answers from the rows of transport. Rows are decoded once for each of
// their revisions; one that does not decode or is not valid is logged then and
// counts as missing. What a method returns is shared: nobody changes what its
// slices hold. It is safe for concurrent use.
type Book struct {
	state State
	log   *slog.Logger

	policy   Policy // of an organization that decided nothing
	defaults Group
	group    atomic.Pointer[groupRow]

	policies   rows[Policy]
	connectors rows[Connector]
	rules      rows[Rule]
	keys       rows[DKIMKey]
}

type groupRow struct {
	revision int64
	group    Group
}

// New makes a book over the agreed state; log may be nil. It starts nothing.
func New(s State, log *slog.Logger) *Book {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Book{state: s, log: log}
	fill(&b.defaults)
	fill(&b.policy)
	return b
}

// Changed is closed at the next change of anything in the agreed state; take it
// before asking.
func (b *Book) Changed() <-chan struct{} { return b.state.Changed() }

// Group is what holds for all servers, with all defaults filled in.
func (b *Book) Group() Group {
	it, ok := b.state.View().Get(GroupKey)
	if !ok {
		return b.defaults
	}
	if have := b.group.Load(); have != nil && have.revision == it.Revision {
		return have.group
	}
	g, err := decodeGroup(it.Value)
	if err != nil {
		b.bad(GroupKey, it.Revision, err)
		g = b.defaults
	}
	b.group.Store(&groupRow{it.Revision, g})
	return g
}

// Defaults are the settings of a group that set nothing.
func Defaults() Group {
	var g Group
	fill(&g)
	return g
}

func decodeGroup(value []byte) (g Group, err error) {
	if err = json.Unmarshal(value, &g); err != nil {
		return g, err
	}
	if err = g.Validate(); err != nil {
		return g, err
	}
	fill(&g)
	return g, nil
}

func (b *Book) bad(key string, revision int64, err error) {
	b.log.Error("a row of the agreed state cannot be used", "key", key, "revision", revision, "error", err)
}

// Policy is what an organization decided, with all defaults filled in.
func (b *Book) Policy(o org.OrganizationID) Policy {
	if o != "" {
		key := PolicyKey(o)
		if it, ok := b.state.View().Get(key); ok {
			if p := b.policies.get(b, key, it); p != nil {
				return *p
			}
		}
	}
	p := b.policy // asked for each message
	p.Organization = o
	return p
}

// Connector finds a connector of an organization.
func (b *Book) Connector(o org.OrganizationID, name string) (Connector, bool) {
	key := ConnectorKey(o, name)
	it, ok := b.state.View().Get(key)
	if !ok {
		return Connector{}, false
	}
	c := b.connectors.get(b, key, it)
	if c == nil {
		return Connector{}, false
	}
	return *c, true
}

// Connectors lists the connectors of an organization by name.
func (b *Book) Connectors(o org.OrganizationID) []Connector {
	return b.connectors.list(b, ConnectorPrefix+string(o)+"/", nil)
}

// AllConnectors lists the connectors of all organizations.
func (b *Book) AllConnectors() []Connector { return b.connectors.list(b, ConnectorPrefix, nil) }

// Rules lists the rules of an organization in the order in which they are
// asked, disabled ones included.
func (b *Book) Rules(o org.OrganizationID) []Rule {
	return b.rules.list(b, RulePrefix+string(o)+"/", func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Name, b.Name))
	})
}

// Keys lists the DKIM keys of a domain, the private ones sealed, by selector.
func (b *Book) Keys(domain string) []DKIMKey {
	return b.keys.list(b, DKIMPrefix+domain+"/", nil)
}

// AllKeys lists the DKIM keys of all domains.
func (b *Book) AllKeys() []DKIMKey { return b.keys.list(b, DKIMPrefix, nil) }

// PolicyKey is the key of an organization's policy.
func PolicyKey(o org.OrganizationID) string { return PolicyPrefix + string(o) }

// ConnectorKey is the key of a connector.
func ConnectorKey(o org.OrganizationID, name string) string {
	return ConnectorPrefix + string(o) + "/" + name
}

// RuleKey is the key of a rule.
func RuleKey(o org.OrganizationID, name string) string { return RulePrefix + string(o) + "/" + name }

// KeyOf is the key of a DKIM key.
func KeyOf(domain, selector string) string { return DKIMPrefix + domain + "/" + selector }

// row is a kind of row that knows the key it belongs under: one under another
// organization's would be a way across.
type row interface {
	Policy | Connector | Rule | DKIMKey
	Validate() error
	key() string
}

func (p Policy) key() string    { return PolicyKey(p.Organization) }
func (c Connector) key() string { return ConnectorKey(c.Organization, c.Name) }
func (r Rule) key() string      { return RuleKey(r.Organization, r.Name) }
func (k DKIMKey) key() string   { return KeyOf(k.Domain, k.Selector) }

// Validate tells the first thing that cannot work (Invalid).
func (k DKIMKey) Validate() error {
	if err := checkDomain("domain", k.Domain); err != nil {
		return err
	}
	if err := checkDomain("selector", k.Selector); err != nil { // RFC 6376 section 3.1: labels
		return err
	}
	known := slices.Contains([]string{"rsa-2048", "ed25519"}, k.Algorithm) &&
		slices.Contains([]string{DKIMPublishing, DKIMSigning, DKIMRetired}, k.State)
	if !known || len(k.Sealed) == 0 || len(k.Sealed) > 16<<10 || len(k.Public) > 4096 {
		return kind.Errorf(kind.Invalid, "dkim key %s of %s is not complete", k.Selector, k.Domain)
	}
	return nil
}

// rows are the decoded rows of a kind. The zero value is ready.
type rows[T row] struct {
	mu    sync.RWMutex // guards all below
	have  map[string]decoded[T]
	lists map[string]listed[T]
}

type decoded[T any] struct {
	revision int64
	row      *T // nil: cannot be used
}

type listed[T any] struct {
	revision int64 // of the view
	list     []T
}

func (r *rows[T]) get(b *Book, key string, it cluster.Item) *T {
	r.mu.RLock()
	have, ok := r.have[key]
	r.mu.RUnlock()
	if ok && have.revision == it.Revision {
		return have.row
	}
	v, err := decode[T](key, it.Value)
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.have[key]; ok && have.revision == it.Revision {
		return have.row // somebody was faster, and logged
	}
	if err != nil {
		b.bad(key, it.Revision, err)
	}
	if r.have == nil {
		r.have = map[string]decoded[T]{}
	}
	bounded(r.have, maxRows)
	r.have[key] = decoded[T]{it.Revision, v}
	return v
}

// list reads all rows below a prefix, once for each revision of the view.
func (r *rows[T]) list(b *Book, prefix string, order func(a, b T) int) []T {
	v := b.state.View()
	r.mu.RLock()
	have, ok := r.lists[prefix]
	r.mu.RUnlock()
	if ok && have.revision == v.Revision() {
		return have.list
	}
	var out []T
	for key, it := range v.Prefix(prefix) {
		if row := r.get(b, key, it); row != nil {
			out = append(out, *row)
		}
	}
	if order != nil {
		slices.SortStableFunc(out, order)
	}
	out = slices.Clip(out)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lists == nil {
		r.lists = map[string]listed[T]{}
	}
	bounded(r.lists, maxLists)
	r.lists[prefix] = listed[T]{v.Revision(), out}
	return out
}

// bounded makes room for one more.
func bounded[V any](m map[string]V, most int) {
	if len(m) < most {
		return
	}
	for k := range m { // any one
		delete(m, k)
		return
	}
}

func decode[T row](key string, value []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(value, v); err != nil {
		return nil, err
	}
	if err := (*v).Validate(); err != nil {
		return nil, err
	}
	if (*v).key() != key {
		return nil, fmt.Errorf("it says that it belongs under %.200q", (*v).key())
	}
	fill(v)
	return v, nil
}
