package directory

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// TestRefusalsCostTheSame counts hashes: one for each refusal, whatever its
// reason.
func TestRefusalsCostTheSame(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	f.mailbox("off@red.example")
	yes := true
	f.must(f.ChangeMailbox(t.Context(), addr("off@red.example"), MailboxChange{Disabled: &yes}))
	f.mailbox("gone@red.example")
	f.must(f.RemoveMailbox(t.Context(), addr("gone@red.example"), false))
	f.must(f.create(NewMailbox{Address: addr("info@red.example"), Shared: true}))
	f.group("team@red.example", "ann@red.example")
	f.must(f.CreateAdministrator(t.Context(), "root", "", []command.Role{command.ServerAdmin}, secret))
	f.must(f.AddAppPassword(t.Context(), addr("ann@red.example"), "phone", []string{ServiceIMAP}))

	for i, c := range []struct{ login, password, service string }{
		{"ann@red.example", "wrong", ServiceIMAP},
		{"ann@red.example", "", ServiceIMAP},
		{"ann@red.example", string(make([]byte, 1<<20)), ServiceIMAP},
		{"ann@red.example", secret, ServiceAdmin}, // no role
		{"ann+x@red.example", secret, ServiceIMAP},
		{"nobody@red.example", secret, ServiceIMAP},
		{"ann@green.example", secret, ServiceIMAP},
		{"off@red.example", secret, ServiceIMAP},
		{"gone@red.example", secret, ServiceIMAP},
		{"info@red.example", secret, ServiceIMAP},
		{"info@red.example", "", ServiceIMAP},
		{"team@red.example", secret, ServiceIMAP},
		{"root", "wrong", ServiceAdmin},
		{"root", secret, ServiceIMAP}, // no mailbox
		{"toor", secret, ServiceAdmin},
		{"", "", ServiceIMAP},
		{"a@b@c", "x", ServiceIMAP},
		{"\x00@red.example", "x", ServiceIMAP},
	} {
		before := f.hasher.runs.Load()
		// Each from its own address, so that none is throttled.
		_, err := f.login(c.login, c.password, c.service, fmt.Sprintf("192.0.2.%d", i+1))
		if !kind.Is(err, kind.Denied) || err.Error() != denied().Error() {
			t.Errorf("%q for %s: %v", c.login, c.service, err)
		}
		if n := f.hasher.runs.Load() - before; n != 1 {
			t.Errorf("%q for %s cost %d hashes", c.login, c.service, n)
		}
	}
}

func TestLogin(t *testing.T) {
	f := newFixture(t, cheap())
	r := f.mailbox("ann@red.example", "a.smith@red.example")
	for _, login := range []string{"ann@red.example", " ANN@red.example ", "a.smith@red.example"} {
		a, err := f.login(login, secret, ServiceIMAP, "192.0.2.1")
		if err != nil || a.ID != r.ID || a.Organization != "red" || a.Mailbox != r.Ref() || a.ServerAdmin || a.Name != "ann@red.example" {
			t.Errorf("%s: %+v %v", login, a, err)
		}
	}
	f.must(f.CreateAdministrator(t.Context(), "Root", "", []command.Role{command.ServerAdmin}, secret))
	a, err := f.login("root", secret, ServiceAdmin, "192.0.2.1")
	if err != nil || !a.ServerAdmin || a.Organization != "" || a.Name != "root" {
		t.Errorf("%+v %v", a, err)
	}
	f.must(f.SetAdministratorPassword(t.Context(), "root", "another horse"))
	if now, ok := f.Account("root"); !ok || now.Stamp == a.Stamp || len(now.Roles) != 1 {
		t.Errorf("%+v %v", now, ok)
	}
	if _, ok := f.Account("nobody@red.example"); ok {
		t.Error("nobody has an account")
	}
	f.must(f.CreateAdministrator(t.Context(), "ann@red.example", "", []command.Role{command.HelpDesk}, ""))
	a, err = f.login("ann@red.example", secret, ServiceAdmin, "192.0.2.1")
	if err != nil || a.ServerAdmin || len(a.Roles) != 1 || a.Caller("", "").Organization != "red" {
		t.Errorf("%+v %v", a, err)
	}
}

func TestAppPasswords(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	f.must(f.CreateAdministrator(t.Context(), "ann@red.example", "", []command.Role{command.OrganizationAdmin}, ""))
	phone, err := f.AddAppPassword(t.Context(), addr("ann@red.example"), "phone", nil)
	f.must(nil, err)
	imap, err := f.AddAppPassword(t.Context(), addr("ann@red.example"), "reader", []string{ServiceIMAP})
	f.must(nil, err)
	before := f.hasher.runs.Load()
	for _, c := range []struct {
		password, service string
		want              string // name of the app password, empty for refused
	}{
		{phone, ServiceIMAP, "phone"}, {phone, ServiceSubmission, "phone"}, {imap, ServiceIMAP, "reader"},
	} {
		a, err := f.login("ann@red.example", c.password, c.service, "192.0.2.1")
		if err != nil || a.AppPassword != c.want || len(a.Roles) != 0 {
			t.Errorf("%s for %s: %+v %v", c.want, c.service, a, err)
		}
	}
	if n := f.hasher.runs.Load() - before; n != 0 {
		t.Errorf("app passwords cost %d hashes", n)
	}
	for _, c := range [][2]string{{phone, ServiceAdmin}, {imap, ServiceSubmission}, {imap, ServiceAdmin}} {
		_, err := f.login("ann@red.example", c[0], c[1], "192.0.2.1")
		wantKind(t, "for "+c[1], err, kind.Denied)
	}
	f.must(nil, f.RemoveAppPassword(t.Context(), addr("ann@red.example"), "phone"))
	_, err = f.login("ann@red.example", phone, ServiceIMAP, "192.0.2.1")
	wantKind(t, "removed", err, kind.Denied)
	_, err = f.AddAppPassword(t.Context(), addr("ann@red.example"), "reader", nil)
	wantKind(t, "same name", err, kind.Exists)
}

// TestReconnectStorm: many connections with one right password cost one hash,
// until it changes.
func TestReconnectStorm(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	before := f.hasher.runs.Load()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := f.login("ann@red.example", secret, ServiceIMAP, "192.0.2.1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// A login that looked at the memory of verified passwords before the first
	// check was done, and came to the checks after it, makes one more.
	if n := f.hasher.runs.Load() - before; n > 3 {
		t.Errorf("%d hashes", n)
	}
	f.must(f.SetPassword(t.Context(), addr("ann@red.example"), "another horse"))
	_, err := f.login("ann@red.example", secret, ServiceIMAP, "192.0.2.1")
	wantKind(t, "old password", err, kind.Denied)
	if _, err := f.login("ann@red.example", "another horse", ServiceIMAP, "192.0.2.1"); err != nil {
		t.Error(err)
	}
	yes := true
	f.must(f.ChangeMailbox(t.Context(), addr("ann@red.example"), MailboxChange{Disabled: &yes}))
	_, err = f.login("ann@red.example", "another horse", ServiceIMAP, "192.0.2.1")
	wantKind(t, "remembered but disabled", err, kind.Denied)
}

func TestVerifiedForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, cheap())
		f.mailbox("ann@red.example")
		runs := func() int64 {
			before := f.hasher.runs.Load()
			f.must(f.login("ann@red.example", secret, ServiceIMAP, "192.0.2.1"))
			return f.hasher.runs.Load() - before
		}
		if a, b := runs(), runs(); a != 1 || b != 0 {
			t.Errorf("first %d, then %d", a, b)
		}
		time.Sleep(f.opt.CacheTTL) // fake time
		if n := runs(); n != 1 {
			t.Errorf("after the time %d", n)
		}
		for i := range 100_000 {
			f.verified.add(f.verified.mark("x", int64(i), "p"), time.Now())
		}
		if n := len(f.verified.seen); n > f.opt.CacheSize {
			t.Errorf("%d remembered", n)
		}
		time.Sleep(f.opt.CacheTTL)
		f.verified.sweep(time.Now())
		if n := len(f.verified.seen); n != 0 {
			t.Errorf("%d left", n)
		}
	})
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, cheap())
		f.mailbox("ann@red.example")
		f.mailbox("bob@red.example")
		limit := f.opt.Throttle

		// ann was at home before.
		f.must(f.login("ann@red.example", secret, ServiceIMAP, "198.51.100.1"))

		// Guesses from many addresses, then from one over many accounts.
		var err error
		for i := range limit.Account + 1 {
			_, err = f.login("ann@red.example", fmt.Sprint("guess", i), ServiceIMAP, fmt.Sprintf("192.0.2.%d", i+1))
		}
		wantKind(t, "account limit", err, kind.Busy)
		_, err = f.login("ann@red.example", secret, ServiceIMAP, "203.0.113.77")
		wantKind(t, "right password from a strange address", err, kind.Busy)
		if _, err := f.login("ann@red.example", secret, ServiceIMAP, "198.51.100.1"); err != nil {
			t.Errorf("from home: %v", err)
		}
		for i := range limit.Address + 1 {
			_, err = f.login(fmt.Sprintf("user%d@red.example", i), "x", ServiceIMAP, "203.0.113.1")
		}
		wantKind(t, "address limit", err, kind.Busy)
		_, err = f.login("bob@red.example", secret, ServiceIMAP, "203.0.113.1")
		wantKind(t, "another account from there", err, kind.Busy)
		if _, err := f.login("bob@red.example", secret, ServiceIMAP, "203.0.113.2"); err != nil {
			t.Errorf("bob from elsewhere: %v", err)
		}

		// Guesses from home hit the pair's own limit, and time forgives.
		for i := range limit.Familiar + 1 {
			_, err = f.login("ann@red.example", fmt.Sprint("home", i), ServiceIMAP, "198.51.100.1")
		}
		wantKind(t, "pair limit", err, kind.Busy)
		time.Sleep(limit.FamiliarEvery + time.Second) // fake time
		if _, err := f.login("ann@red.example", secret, ServiceIMAP, "198.51.100.1"); err != nil {
			t.Errorf("a period later: %v", err)
		}
		time.Sleep(limit.AccountPeriod)
		if _, err := f.login("ann@red.example", secret, ServiceIMAP, "203.0.113.77"); err != nil {
			t.Errorf("strange address, a period later: %v", err)
		}
	})
}

// TestThrottleUnknown: an unknown account is throttled as a known one is.
func TestThrottleUnknown(t *testing.T) {
	f := newFixture(t, cheap())
	f.mailbox("ann@red.example")
	refusedAt := func(login string, net byte) int {
		for i := range 1000 {
			from := netip.AddrFrom4([4]byte{10, net, byte(i >> 8), byte(i)})
			if _, err := f.Authenticate(t.Context(), login, fmt.Sprint("p", i), ServiceIMAP, from); kind.Is(err, kind.Busy) {
				return i
			}
		}
		return -1
	}
	known, unknown, name := refusedAt("ann@red.example", 1), refusedAt("nobody@red.example", 2), refusedAt("nobody", 3)
	if known != unknown || known != name || known < 0 {
		t.Errorf("throttled after %d, unknown after %d, %d", known, unknown, name)
	}
}

func TestThrottleBounded(t *testing.T) {
	o := ThrottleOptions{Entries: 1000, FamiliarPairs: 500}.withDefaults()
	th := newThrottle(o)
	at := time.Unix(1e9, 0)
	for i := range 20_000 {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		th.begin(fmt.Sprint("user", i), from, at)
		th.succeeded(fmt.Sprint("user", i%3000), from, nil, at)
	}
	pairs := 0
	for _, a := range th.familiar {
		pairs += len(a)
	}
	if len(th.failures) > o.Entries || pairs > o.FamiliarPairs || pairs != th.pairs {
		t.Errorf("%d failures, %d pairs (counted %d)", len(th.failures), pairs, th.pairs)
	}
	for i := range 100 {
		th.succeeded("one", netip.AddrFrom4([4]byte{11, 0, 0, byte(i)}), nil, at.Add(time.Duration(i)))
	}
	if n := len(th.familiar["one"]); n > addressesPerAccount {
		t.Errorf("one account has %d addresses", n)
	}
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := network(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	_ = network(netip.Addr{}).String() // no address: must not panic
}

// TestHashesBounded holds the number of hashes at once and of those that wait.
func TestHashesBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := cheap()
		o.HashWaiters = 3
		h := newHasher(o.withDefaults())
		release := make(chan struct{})
		results := make(chan error, 10)
		for range o.Hashes + o.HashWaiters {
			go func() { results <- h.run(t.Context(), func() { <-release }) }()
		}
		synctest.Wait()
		if err := h.run(t.Context(), func() {}); !kind.Is(err, kind.Busy) {
			t.Errorf("one more: %v", err)
		}
		if n := h.running.Load(); n != int64(o.Hashes) {
			t.Errorf("%d run", n)
		}
		time.Sleep(h.wait + time.Second) // fake time
		for range o.HashWaiters {
			if err := <-results; !kind.Is(err, kind.Busy) {
				t.Errorf("waited too long: %v", err)
			}
		}
		close(release)
		for range o.Hashes {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		h.slots <- struct{}{}
		h.slots <- struct{}{}
		wantKind(t, "caller left", h.run(ctx, func() {}), kind.Busy)
	})
}

// TestParallelLogins: with many different logins at once, hashes stay within
// their number, and Busy charges nobody with a failure.
func TestParallelLogins(t *testing.T) {
	o := cheap()
	o.HashWaiters = 5
	f := newFixture(t, o)
	f.mailbox("ann@red.example")
	var wg sync.WaitGroup
	var denials atomic.Int64
	for i := range 200 {
		wg.Go(func() {
			from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			_, err := f.Authenticate(t.Context(), fmt.Sprintf("u%d@red.example", i), "x", ServiceIMAP, from)
			switch kind.Of(err) {
			case kind.Denied:
				denials.Add(1)
			case kind.Busy:
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if p := f.hasher.peak.Load(); p > int64(o.Hashes) {
		t.Errorf("%d hashes at once", p)
	}
	// Each failure is counted for its account and its address.
	if n := int64(len(f.throttle.failures)); n != 2*denials.Load() {
		t.Errorf("%d counters for %d refusals", n, denials.Load())
	}
}
