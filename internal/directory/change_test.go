package directory

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"golang.org/x/crypto/bcrypt"
)

// TestAddressesUnique: of many that claim one address at once, one gets it.
func TestAddressesUnique(t *testing.T) {
	o := cheap()
	o.HashWaiters = 1000
	f := newFixture(t, o)
	second := New(f.mem, o) // another server on the same state
	second.opt.Store = f.store
	for round := range 10 {
		a := addr(fmt.Sprintf("x%d@red.example", round))
		var made atomic.Int64
		var wg sync.WaitGroup
		for i := range 12 {
			d := []*Directory{f.Directory, second}[i%2]
			wg.Go(func() {
				var err error
				switch i % 3 {
				case 0:
					_, _, err = d.CreateMailbox(t.Context(), NewMailbox{Address: a, Password: secret})
				case 1:
					_, err = d.CreateGroup(t.Context(), addr(strings.ToUpper(a.Local)+"@red.example"), "")
				case 2:
					n := NewMailbox{Address: addr(fmt.Sprintf("y%d-%d@red.example", round, i)), Password: secret}
					n.Aliases = append(n.Aliases, a)
					_, _, err = d.CreateMailbox(t.Context(), n)
				}
				if err == nil {
					made.Add(1)
				} else if !kind.Is(err, kind.Exists) && !kind.Is(err, kind.Conflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 {
			t.Errorf("round %d: %d have %s", round, made.Load(), a)
		}
	}
}

// TestRemoveRaces removes a domain while mailboxes are created in it: never
// is a mailbox left without its domain.
func TestRemoveRaces(t *testing.T) {
	f := newFixture(t, cheap())
	for i := range 30 {
		domain := fmt.Sprintf("d%d.example", i)
		f.must(f.AddDomain(t.Context(), "red", domain))
		var wg sync.WaitGroup
		var created, removed error
		wg.Go(func() { _, created = f.CreateGroup(t.Context(), addr("g@"+domain), "") })
		wg.Go(func() { removed = f.RemoveDomain(t.Context(), domain) })
		wg.Wait()
		if created == nil && removed == nil || created != nil && removed != nil {
			t.Fatalf("created: %v, removed: %v", created, removed)
		}
		if f.Hosted(domain) != (removed != nil) {
			t.Fatalf("hosted after %v", removed)
		}
	}
}

// between runs something of another server between the look and the commit.
type between struct {
	*Memory
	once func()
}

func (b *between) Commit(ctx context.Context, t cluster.Txn) (int64, error) {
	if f := b.once; f != nil {
		b.once = nil
		f()
	}
	return b.Memory.Commit(ctx, t)
}

// TestRemovedBetween: what a change relied on is removed right before it is
// committed.
func TestRemovedBetween(t *testing.T) {
	f := newFixture(t, cheap())
	b := &between{Memory: f.mem}
	slow := New(b, cheap())
	b.once = func() { f.must(nil, f.RemoveDomain(t.Context(), "red.example")) }
	_, err := slow.CreateGroup(t.Context(), addr("g@red.example"), "")
	wantKind(t, "group of a removed domain", err, kind.NotFound)
	b.once = func() { f.must(nil, f.RemoveOrganization(t.Context(), "red")) }
	_, err = slow.AddDomain(t.Context(), "red", "new.example")
	wantKind(t, "domain of a removed organization", err, kind.NotFound)

	f.must(f.CreateAdministrator(t.Context(), "one", "", []command.Role{command.ServerAdmin}, secret))
	f.must(f.CreateAdministrator(t.Context(), "two", "", []command.Role{command.ServerAdmin}, secret))
	b.once = func() { f.must(nil, f.RemoveAdministrator(t.Context(), "two")) }
	wantKind(t, "the last two remove each other", slow.RemoveAdministrator(t.Context(), "one"), kind.Invalid)

	f.mailbox("ann@blue.example")
	b.once = func() {
		f.must(f.CreateAdministrator(t.Context(), "ann@blue.example", "", []command.Role{command.OrganizationAdmin}, ""))
	}
	_, err = slow.SetPassword(as(t.Context(), "blue", command.HelpDesk), addr("ann@blue.example"), secret)
	wantKind(t, "help desk for who gets a role", err, kind.Denied)
}

func TestRemoveInUse(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	wantKind(t, "domain", f.RemoveDomain(t.Context(), "red.example"), kind.Invalid)
	wantKind(t, "organization", f.RemoveOrganization(t.Context(), "red"), kind.Invalid)
	f.mailbox("bob@red.example") // the marks were taken back
	for _, a := range []string{"ann@red.example", "bob@red.example"} {
		f.must(f.RemoveMailbox(t.Context(), addr(a), true))
	}
	f.must(nil, f.RemoveDomain(t.Context(), "red.example"))
	f.must(nil, f.RemoveOrganization(t.Context(), "red"))
	_, err := f.AddDomain(t.Context(), "red", "again.example")
	wantKind(t, "domain of no organization", err, kind.NotFound)
	for key := range f.mem.View().Prefix("") {
		if strings.Contains(key, "red") {
			t.Errorf("left: %s", key)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	for _, c := range []struct {
		what string
		n    NewMailbox
		want kind.Kind
	}{
		{"taken", NewMailbox{Address: addr("Ann@red.example"), Password: secret}, kind.Exists},
		{"unknown domain", NewMailbox{Address: addr("x@green.example"), Password: secret}, kind.NotFound},
		{"literal", NewMailbox{Address: addr("x@[192.0.2.1]"), Password: secret}, kind.NotFound},
		{"stranger's alias", NewMailbox{Address: addr("x@red.example"), Aliases: f.addrs("x@blue.example"), Password: secret}, kind.Invalid},
		{"alias twice", NewMailbox{Address: addr("x@red.example"), Aliases: f.addrs("X@red.example"), Password: secret}, kind.Exists},
		{"short password", NewMailbox{Address: addr("x@red.example"), Password: "1234567"}, kind.Invalid},
		{"long password", NewMailbox{Address: addr("x@red.example"), Password: strings.Repeat("x", 2000)}, kind.Invalid},
		{"shared with password", NewMailbox{Address: addr("x@red.example"), Shared: true, Password: secret}, kind.Invalid},
		{"unknown hash", NewMailbox{Address: addr("x@red.example"), Hash: "{MD5}x"}, kind.Invalid},
		{"greedy hash", NewMailbox{Address: addr("x@red.example"), Hash: "$argon2id$v=19$m=4000000000,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, kind.Invalid},
		{"no such database", NewMailbox{Address: addr("x@red.example"), Password: secret, Database: "DB77"}, kind.NotFound},
		{"name with newline", NewMailbox{Address: addr("x@red.example"), Password: secret, Name: "a\nb"}, kind.Invalid},
		{"quota below zero", NewMailbox{Address: addr("x@red.example"), Password: secret, QuotaBytes: -1}, kind.Invalid},
	} {
		_, _, err := f.CreateMailbox(t.Context(), c.n)
		wantKind(t, c.what, err, c.want)
	}
}

func (f *fixture) addrs(s string) (out []mail.Address) { return append(out, addr(s)) }

func TestPlacesSpread(t *testing.T) {
	f := newFixture(t, cheap())
	count := map[org.DatabaseName]int{}
	for i := range 10 {
		count[f.mailbox(fmt.Sprintf("u%d@red.example", i)).Database]++
	}
	if count["DB01"] != 5 || count["DB02"] != 5 {
		t.Errorf("%v", count)
	}
}

// TestSetup: a mailbox is set up when created, with another limit, and later
// where the database was away.
func TestSetup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, cheap())
		r := f.mailbox("ann@red.example")
		if s, ok := f.store.get(r.ID); !ok || s.Organization != "red" || !r.Provisioned {
			t.Errorf("%+v %v, provisioned %v", s, ok, r.Provisioned)
		}
		quota := int64(1 << 20)
		f.must(f.ChangeMailbox(t.Context(), r.Address, MailboxChange{QuotaBytes: &quota}))
		if s, _ := f.store.get(r.ID); s.QuotaBytes != quota {
			t.Errorf("%+v", s)
		}

		f.store.fail(errors.New("away"))
		late := f.mailbox("bob@red.example")
		if late.Provisioned {
			t.Error("set up without a database")
		}
		go f.Run(t.Context())
		time.Sleep(5 * f.opt.ReconcileEvery) // fake time
		f.store.fail(nil)
		time.Sleep(2 * f.opt.ReconcileEvery)
		if _, ok := f.store.get(late.ID); !ok {
			t.Error("not set up later")
		}
		if r, _ := f.ByAddress(late.Address); !r.Provisioned {
			t.Error("not recorded")
		}
		sets := f.store.sets
		time.Sleep(5 * f.opt.ReconcileEvery)
		if f.store.sets != sets {
			t.Error("set up again and again")
		}
	})
}

func TestRemoveRestorePurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, cheap())
		r := f.mailbox("ann@red.example", "a@red.example")
		f.group("team@red.example", "ann@red.example")
		go f.Run(t.Context())
		f.must(f.RemoveMailbox(t.Context(), r.Address, false))
		_, err := f.login("ann@red.example", secret, ServiceIMAP, "192.0.2.1")
		wantKind(t, "log in", err, kind.Denied)
		_, err = f.CreateGroup(t.Context(), addr("a@red.example"), "")
		wantKind(t, "its alias is kept", err, kind.Exists)
		time.Sleep(f.opt.Retention - time.Hour) // fake time
		f.must(f.RestoreMailbox(t.Context(), r.Address))
		f.must(f.login("ann@red.example", secret, ServiceIMAP, "192.0.2.1"))
		_, err = f.RestoreMailbox(t.Context(), r.Address)
		wantKind(t, "restore what is there", err, kind.Invalid)

		f.must(f.RemoveMailbox(t.Context(), r.Address, false))
		f.store.fail(errors.New("away"))
		time.Sleep(f.opt.Retention + 2*f.opt.ReconcileEvery)
		_, err = f.RestoreMailbox(t.Context(), r.Address)
		wantKind(t, "restore what is being purged", err, kind.Invalid)
		f.store.fail(nil)
		time.Sleep(2 * f.opt.ReconcileEvery)
		if _, ok := f.store.get(r.ID); ok {
			t.Error("still in the database")
		}
		for key := range f.mem.View().Prefix("") {
			if strings.Contains(key, r.ID.String()) || key == "addresses/a@red.example" {
				t.Errorf("left: %s", key)
			}
		}
		f.must(f.CreateGroup(t.Context(), addr("a@red.example"), ""))
		_, err = f.Resolve(t.Context(), addr("team@red.example"))
		wantKind(t, "group of a purged member", err, kind.Denied)
	})
}

// TestWithoutQuorum: look-ups and logins go on, changes are Busy.
func TestWithoutQuorum(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	f.mem.Fail(kind.Errorf(kind.Busy, "no quorum"))
	f.must(f.login("ann@red.example", secret, ServiceIMAP, "192.0.2.1"))
	f.must(f.Resolve(t.Context(), addr("ann@red.example")))
	_, err := f.CreateGroup(t.Context(), addr("g@red.example"), "")
	wantKind(t, "create", err, kind.Busy)
	_, err = f.RemoveMailbox(t.Context(), addr("ann@red.example"), false)
	wantKind(t, "remove", err, kind.Busy)
}

// TestImportedHashes: hashes of other systems verify, and become argon2id
// with the first login.
func TestImportedHashes(t *testing.T) {
	f := newFixture(t, cheap())
	salt := []byte("saltsalt")
	sum := sha512.Sum512(append([]byte(secret), salt...))
	bc, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
	f.must(nil, err)
	old := newHasher(Options{Hashes: 1, HashWaiters: 1, HashWait: time.Second, HashMemory: 128, HashPasses: 2})
	argon, err := old.hash(t.Context(), secret)
	f.must(nil, err)
	for i, hash := range []string{
		"{SSHA512}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...)), "{BLF-CRYPT}" + string(bc), argon,
	} {
		login := fmt.Sprintf("u%d@red.example", i)
		r, err := f.create(NewMailbox{Address: addr(login), Hash: hash})
		f.must(nil, err)
		_, err = f.login(login, "wrong password", ServiceIMAP, "192.0.2.1")
		wantKind(t, "wrong", err, kind.Denied)
		f.must(f.login(login, secret, ServiceIMAP, "192.0.2.1"))
		c, _, _ := row[credentials](f.mem.View(), credentialsKey("red", r.ID))
		if _, stale := f.hasher.checker(c.Hash); stale || !strings.HasPrefix(c.Hash, "$argon2id$") {
			t.Errorf("%s became %s", hash[:10], c.Hash)
		}
		f.must(f.login(login, secret, ServiceIMAP, "192.0.2.1"))
	}
}

func FuzzChecker(f *testing.F) {
	h := newHasher(cheap().withDefaults())
	for _, s := range []string{h.decoy, "{SSHA512}AAAA", "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuu", "$argon2id$v=19$m=1,t=1,p=1$$", "$argon2id$$$$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { h.checker(s) }) // takes or refuses, and does not compute
}

func TestPasswordForms(t *testing.T) {
	f := newFixture(t, cheap())
	_, _, err := f.CreateMailbox(t.Context(), NewMailbox{Address: addr("ann@red.example"), Password: "pa\u0308ssword"})
	f.must(nil, err)
	f.must(f.login("ann@red.example", "p\u00e4ssword", ServiceIMAP, "192.0.2.1")) // the same, composed
	_, made, err := f.CreateMailbox(t.Context(), NewMailbox{Address: addr("bob@red.example")})
	f.must(nil, err)
	if len(made) != 27 {
		t.Errorf("made %q", made)
	}
	f.must(f.login("bob@red.example", made, ServiceIMAP, "192.0.2.1"))
}

func TestBootstrap(t *testing.T) {
	d := New(NewMemory(), cheap())
	o := BootstrapOptions{Organization: "main", Domains: []string{"example.test", "Example.TEST"}}
	first, err := d.Bootstrap(t.Context(), o)
	if err != nil || !first.Created || first.AdminPassword == "" {
		t.Fatalf("%+v %v", first, err)
	}
	again, err := d.Bootstrap(t.Context(), o)
	if err != nil || again.Created || again.AdminPassword != "" {
		t.Errorf("%+v %v", again, err)
	}
	if id, ok := d.OrganizationOf("example.test"); !ok || id != "main" {
		t.Error("no domain")
	}
	f := &fixture{Directory: d, t: t}
	a, err := f.login(AdminName, first.AdminPassword, ServiceAdmin, "127.0.0.1")
	if err != nil || !a.ServerAdmin {
		t.Errorf("%+v %v", a, err)
	}
	wantKind(t, "last administrator", d.RemoveAdministrator(t.Context(), AdminName), kind.Invalid)
	f.must(d.CreateAdministrator(t.Context(), "other", "", []command.Role{command.ServerAdmin}, secret))
	f.must(nil, d.RemoveAdministrator(t.Context(), AdminName))
}

func TestDryRun(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	f.group("team@red.example", "ann@red.example")
	f.must(f.AddDomain(t.Context(), "red", "spare.example"))
	f.must(f.CreateOrganization(t.Context(), "spare", ""))
	f.must(f.CreateAdministrator(t.Context(), "other", "", []command.Role{command.ServerAdmin}, secret))
	f.must(f.AddAppPassword(t.Context(), addr("ann@red.example"), "phone", nil))
	for _, c := range [][2]string{
		{"administrator remove", `{"login":"ann@red.example"`},
		{"group remove-member", `{"address":"team@red.example","member":"ann@red.example"`},
		{"group remove", `{"address":"team@red.example"`},
		{"mailbox remove-app-password", `{"address":"ann@red.example","name":"phone"`},
		{"mailbox remove", `{"address":"ann@red.example","now":true`},
		{"domain remove", `{"domain":"spare.example"`},
		{"organization remove", `{"organization":"spare"`},
	} {
		if c[0] == "administrator remove" {
			f.must(f.CreateAdministrator(t.Context(), "ann@red.example", "", []command.Role{command.Auditor}, ""))
		}
		before := f.mem.View().(*memoryView).revision
		out, err := f.call(t.Context(), c[0], c[1]+`,"dry_run":true}`)
		if err != nil || strings.Contains(out, `"done":true`) || f.mem.View().(*memoryView).revision != before {
			t.Errorf("%s dry: %s %v", c[0], out, err)
		}
		out, err = f.call(t.Context(), c[0], c[1]+`}`)
		if err != nil || !strings.Contains(out, `"done":true`) || f.mem.View().(*memoryView).revision == before {
			t.Errorf("%s: %s %v", c[0], out, err)
		}
	}
}

// rowsOf makes a state with many mailboxes at once.
func rowsOf(b *testing.B, n int) *Directory {
	mem := NewMemory("DB01")
	d := New(mem, cheap())
	if _, err := d.CreateOrganization(b.Context(), "red", ""); err != nil {
		b.Fatal(err)
	}
	if _, err := d.AddDomain(b.Context(), "red", "red.example"); err != nil {
		b.Fatal(err)
	}
	var x txn
	for i := range n {
		r := &Recipient{ID: org.NewMailboxID(), Organization: "red", Type: TypeUser, Address: addr(fmt.Sprintf("u%d@red.example", i)), Database: "DB01"}
		x.put(recipientKey("red", r.ID), 0, r)
		x.put(addressKey(r.Address), 0, owner{"red", r.ID})
	}
	if _, err := mem.Commit(b.Context(), cluster.Txn(x)); err != nil {
		b.Fatal(err)
	}
	return d
}

func BenchmarkResolve(b *testing.B) {
	d := rowsOf(b, 10_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := d.Resolve(b.Context(), mail.Address{Local: fmt.Sprintf("u%d", i%10_000), Domain: "red.example"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTurn(b *testing.B) {
	d := rowsOf(b, 10_000)
	d.opt.Store = &boxes{have: map[org.MailboxID]mail.MailboxSetup{}}
	for b.Loop() {
		d.countPlaces(d.state.View())
	}
}

func TestListing(t *testing.T) {
	f := newFixture(t, cheap())
	for i := range 5 {
		f.mailbox(fmt.Sprintf("u%d@red.example", i))
	}
	for in, want := range map[string]string{
		`{}`: "u0 u1 u2 u3 u4", `{"limit":2}`: "u0 u1", `{"limit":2,"after":"u1@red.example"}`: "u2 u3", `{"filter":"U3"}`: "u3",
	} {
		out, err := f.call(t.Context(), "mailbox list", in)
		f.must(nil, err)
		var got []string
		for i := range 5 {
			if strings.Contains(out, fmt.Sprintf("u%d@", i)) {
				got = append(got, fmt.Sprint("u", i))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v", in, got)
		}
	}
	_, err := f.call(t.Context(), "mailbox list", `{"limit":0}`)
	wantKind(t, "limit 0", err, kind.Invalid)
}
