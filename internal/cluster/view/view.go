package view

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// View is the agreed state at one point in time. It never changes.
type View struct {
	revision  int64
	tree      tree
	servers   table[org.Server]
	databases table[org.Database]
	mounts    table[org.Mount]
}

// Change is one key's new value, or its end.
type Change struct {
	Key    string
	Item   Item
	Delete bool
}

// Empty returns the view before anything was agreed.
func Empty() *View { return &View{} }

// New makes a view of all keys at a revision. Keys must be unique.
func New(revision int64, all iter.Seq2[string, Item]) *View {
	e := new(tree).edit()
	for k, it := range all {
		e.set(k, it)
	}
	v := &View{revision: revision, tree: e.done()}
	v.servers = load[org.Server](v, "servers/")
	v.databases = load[org.Database](v, "databases/")
	v.mounts = load[org.Mount](v, "mounts/")
	return v
}

// Apply makes the view after changes, which together lead to revision.
func (v *View) Apply(revision int64, changes []Change) *View {
	e := v.tree.edit()
	next := &View{revision: revision, servers: v.servers, databases: v.databases, mounts: v.mounts}
	for _, c := range changes {
		if c.Delete {
			e.remove(c.Key)
		} else {
			e.set(c.Key, c.Item)
		}
		switch dir, name, _ := strings.Cut(c.Key, "/"); dir {
		case "servers":
			next.servers = next.servers.with(name, c)
		case "databases":
			next.databases = next.databases.with(name, c)
		case "mounts":
			next.mounts = next.mounts.with(name, c)
		}
	}
	next.tree = e.done()
	return next
}

// Revision is the agreed state's revision of this view; it contains all
// changes up to it.
func (v *View) Revision() int64 { return v.revision }

// Len is the number of keys.
func (v *View) Len() int { return v.tree.n }

// Get returns the value of a key. The caller must not change it.
func (v *View) Get(key string) (Item, bool) { return v.tree.get(key) }

// Prefix iterates over the keys that begin with p, in key order.
func (v *View) Prefix(p string) iter.Seq2[string, Item] {
	return func(yield func(string, Item) bool) {
		for k, it := range v.tree.from(p) {
			if !strings.HasPrefix(k, p) || !yield(k, it) {
				return
			}
		}
	}
}

// Servers lists the members of the group by name.
func (v *View) Servers() []org.Server { return v.servers.list() }

// Server returns a member of the group.
func (v *View) Server(name org.ServerName) (org.Server, bool) {
	s, _, ok := v.servers.get(string(name))
	return s, ok
}

// ServerRevision is the revision of a server's row for compare and swap, 0
// when there is none.
func (v *View) ServerRevision(name org.ServerName) int64 {
	it, _ := v.Get("servers/" + string(name))
	return it.Revision
}

// Databases lists the mailbox databases by name.
func (v *View) Databases() []org.Database { return v.databases.list() }

// Database returns the definition of a mailbox database.
func (v *View) Database(name org.DatabaseName) (org.Database, bool) {
	d, _, ok := v.databases.get(string(name))
	return d, ok
}

// DatabaseRevision is the revision of a database's row for compare and swap,
// 0 when there is none.
func (v *View) DatabaseRevision(name org.DatabaseName) int64 {
	it, _ := v.Get("databases/" + string(name))
	return it.Revision
}

// Mount returns who is active for a database, with its Revision.
func (v *View) Mount(name org.DatabaseName) (org.Mount, bool) {
	m, rev, ok := v.mounts.get(string(name))
	m.Revision = rev
	return m, ok
}

// Mounts lists all mounts by database name, with their Revisions.
func (v *View) Mounts() []org.Mount {
	out := make([]org.Mount, len(v.mounts.rows))
	for i, r := range v.mounts.rows {
		out[i] = r.value
		out[i].Revision = r.revision
	}
	return out
}

// table is the decoded rows under one prefix, sorted by name. Like the tree,
// a table in a published view is never written again.
type table[T any] struct{ rows []row[T] }

type row[T any] struct {
	name     string
	value    T
	revision int64
}

func load[T any](v *View, prefix string) table[T] {
	var t table[T]
	for k, it := range v.Prefix(prefix) {
		t = t.with(k[len(prefix):], Change{Item: it})
	}
	return t
}

func (t table[T]) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.rows, name, func(r row[T], n string) int { return strings.Compare(r.name, n) })
}

// with returns the table after a change. A row that does not decode is left
// out: a newer version's row must not stop an older server, which sees it as
// absent and can still read the bytes with Get.
func (t table[T]) with(name string, c Change) table[T] {
	i, ok := t.find(name)
	var v T
	if !c.Delete && json.Unmarshal(c.Item.Value, &v) != nil {
		c.Delete = true
	}
	rows := make([]row[T], 0, len(t.rows)+1)
	rows = append(rows, t.rows[:i]...)
	if !c.Delete {
		rows = append(rows, row[T]{name, v, c.Item.Revision})
	}
	if ok {
		i++
	}
	return table[T]{append(rows, t.rows[i:]...)}
}

func (t table[T]) get(name string) (v T, revision int64, ok bool) {
	i, ok := t.find(name)
	if !ok {
		return v, 0, false
	}
	return t.rows[i].value, t.rows[i].revision, true
}

func (t table[T]) list() []T {
	out := make([]T, len(t.rows))
	for i, r := range t.rows {
		out[i] = r.value
	}
	return out
}
