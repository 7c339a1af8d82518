package guard

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func TestRecipient(t *testing.T) {
	w := newWorld(t)
	small := mailbox(org.MailboxID{3}, "small@example.test")
	small.MaxMessage = 1000
	group := directory.Destination{Kind: directory.KindGroup, Organization: "example", ID: org.MailboxID{4}, Members: []org.MailboxID{ann},
		Senders: directory.SenderRule{Authenticated: true, Domains: []string{"friend.test"}}}
	routed := mailbox(org.MailboxID{5}, "routed@example.test")
	routed.Route = "branch"
	w.people.known["small@example.test"], w.people.known["group@example.test"], w.people.known["routed@example.test"] = small, group, routed
	for a, k := range map[string]kind.Kind{"off@example.test": kind.Denied, "busy@example.test": kind.Busy, "gone@example.test": kind.Elsewhere, "big@example.test": kind.Invalid} {
		w.people.errs[a] = k
	}
	w.Full(bea)
	w.usage[bea] = mail.Usage{Bytes: 900, QuotaBytes: 1000}
	w.Full(routed.ID)
	w.usage[routed.ID] = mail.Usage{Bytes: 1000, QuotaBytes: 1000}
	w.put(t, settings.PolicyKey("example"), settings.Policy{Organization: "example", MaxMessage: 5000})

	out := mail.Peer{Door: doorReceive}
	account := mail.Peer{Door: doorSubmission, Account: "example/" + ann.String(), Organization: "example"}
	foreign := mail.Peer{Door: doorSubmission, Account: "other/" + org.MailboxID{9}.String(), Organization: "other"}
	proven := mail.Peer{Door: doorReceive, Connector: "branch", Organization: "example"}
	for _, c := range []struct {
		name   string
		peer   mail.Peer
		from   string
		size   int64
		to     string
		action mail.Action
		status string
	}{
		{"known", out, "x@friend.test", 0, "ann@example.test", mail.ActionPass, ""},
		{"unknown", out, "x@friend.test", 0, "nobody@example.test", mail.ActionRefuse, "5.1.1"},
		{"disabled", out, "x@friend.test", 0, "off@example.test", mail.ActionRefuse, "5.2.1"},
		{"directory away", out, "x@friend.test", 0, "busy@example.test", mail.ActionDefer, "4.3.0"},
		{"too many members", out, "x@friend.test", 0, "big@example.test", mail.ActionRefuse, "5.2.4"},
		{"domain has left", out, "x@friend.test", 0, "gone@example.test", mail.ActionRefuse, "5.7.1"},
		{"not an address", out, "x@friend.test", 0, "a b@example.test", mail.ActionRefuse, "5.1.3"},
		{"UTF-8", out, "x@friend.test", 0, "ü@example.test", mail.ActionRefuse, "5.6.7"},
		{"relay", out, "x@friend.test", 0, "x@target.test", mail.ActionRefuse, "5.7.1"},
		{"account sends out", account, "ann@example.test", 0, "x@target.test", mail.ActionPass, ""},
		{"account, odd but theirs", account, "ann@example.test", 0, "a%b@target.test", mail.ActionPass, ""},
		{"account, literal", account, "ann@example.test", 0, "x@[192.0.2.1]", mail.ActionRefuse, "5.7.1"},
		{"connector sends out", proven, "ann@example.test", 0, "x@target.test", mail.ActionPass, ""},
		{"too large for the recipient", out, "x@friend.test", 1001, "small@example.test", mail.ActionRefuse, "5.3.4"},
		{"as large as the recipient takes", out, "x@friend.test", 1000, "small@example.test", mail.ActionPass, ""},
		{"too large for the organization", out, "x@friend.test", 5001, "ann@example.test", mail.ActionRefuse, "5.3.4"},
		{"full", out, "x@friend.test", 200, "bea@example.test", mail.ActionDefer, "4.2.2"},
		{"room for this one", out, "x@friend.test", 50, "bea@example.test", mail.ActionPass, ""},
		{"full, but routed elsewhere", out, "x@friend.test", 50, "routed@example.test", mail.ActionPass, ""},
		{"group, stranger", out, "x@evil.test", 0, "group@example.test", mail.ActionRefuse, "5.7.1"},
		{"group, null sender", out, "", 0, "group@example.test", mail.ActionRefuse, "5.7.1"},
		{"group, friend", out, "x@friend.test", 0, "group@example.test", mail.ActionPass, ""},
		{"group, account", account, "ann@example.test", 0, "group@example.test", mail.ActionPass, ""},
		{"group, account of others", foreign, "x@other.test", 0, "group@example.test", mail.ActionRefuse, "5.7.1"},
		{"group, connector", proven, "ann@example.test", 0, "group@example.test", mail.ActionPass, ""},
	} {
		p, e := c.peer, mail.Envelope{From: c.from, Size: c.size}
		p.Remote = netip.MustParseAddr("198.51.100.7")
		if v := w.Recipient(t.Context(), &p, &e, to(c.to)[0]); v.Action != c.action || v.Status != c.status {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	w.usage[bea] = mail.Usage{Bytes: 10, QuotaBytes: 1000}
	p, e := peerAt("198.51.100.7"), mail.Envelope{From: "x@friend.test"}
	if v := w.Recipient(t.Context(), p, &e, to("bea@example.test")[0]); v.Action != mail.ActionPass || w.mem.wasFull(bea.String(), time.Now()) {
		t.Errorf("has room again: %+v", v)
	}
}

func TestSender(t *testing.T) {
	w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.", "null.test. 60 IN MX 0 .", "host.test. 60 IN A 192.0.2.9")
	w.put(t, BlockPrefix+"spammer.test", Entry{Value: "spammer.test"})
	w.put(t, BlockPrefix+"eve@friend.test", Entry{Value: "eve@friend.test"})
	w.put(t, BlockPrefix+"old@friend.test", Entry{Value: "old@friend.test", Expires: time.Now().Add(-time.Hour)})
	for _, c := range []struct {
		from   string
		action mail.Action
		status string
	}{
		{"", mail.ActionPass, ""},
		{"x@friend.test", mail.ActionPass, ""},
		{"x@host.test", mail.ActionPass, ""},
		{"x@[192.0.2.1]", mail.ActionPass, ""},
		{"x@null.test", mail.ActionRefuse, "5.7.27"},
		{"x@nothing.test", mail.ActionRefuse, "5.1.8"},
		{"x@broken.test", mail.ActionDefer, "4.1.8"},
		{"x@spammer.test", mail.ActionRefuse, "5.7.1"},
		{"x@mail.spammer.test", mail.ActionRefuse, "5.7.1"},
		{"eve@friend.test", mail.ActionRefuse, "5.7.1"},
		{"old@friend.test", mail.ActionPass, ""},
		{"no address", mail.ActionRefuse, "5.1.7"},
	} {
		p := peerAt("198.51.100.7")
		p.Connector, p.Organization = "left", "over" // of a former message
		if v := w.Sender(t.Context(), p, &mail.Envelope{From: c.from}); v.Action != c.action || v.Status != c.status || p.Connector != "" || p.Organization != "" {
			t.Errorf("%q: %+v %q", c.from, v, p.Connector)
		}
	}
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	w.group(t, settings.Group{ConnectionsPerMinute: 3})
	w.put(t, BlockPrefix+"192.0.2.0/24", Entry{Value: "192.0.2.0/24"})
	w.put(t, AllowPrefix+"203.0.113.7/32", Entry{Value: "203.0.113.7/32"})
	w.put(t, AllowPrefix+"2001:db8:1::/48", Entry{Value: "2001:db8:1::/48"})
	connect := func(a string) mail.Action {
		return w.Connect(t.Context(), &mail.Peer{Remote: netip.MustParseAddr(a), Door: doorReceive, Reverse: "known.test"}).Action
	}
	if a := connect("192.0.2.77"); a != mail.ActionRefuse {
		t.Errorf("blocked: %v", a)
	}
	for i, want := range []mail.Action{0, 0, 0, mail.ActionDefer} {
		if a := connect([]string{"198.51.100.1", "::ffff:198.51.100.2", "198.51.100.3", "198.51.100.4"}[i]); a != want {
			t.Errorf("connection %d: %v", i+1, a)
		}
		if a := connect("2001:db8:2::1"); i == 3 && a != mail.ActionDefer {
			t.Errorf("IPv6 %d: %v", i+1, a)
		}
	}
	for range 10 {
		if connect("203.0.113.7") != mail.ActionPass || connect("2001:db8:1:2::3") != mail.ActionPass {
			t.Error("allowed networks are counted")
		}
	}
	if a := connect("198.51.101.1"); a != mail.ActionPass {
		t.Errorf("the network beside: %v", a)
	}
}

// TestConnectorsAreNotCounted: who relays for many is no flood.
func TestConnectorsAreNotCounted(t *testing.T) {
	w, peer := relayWorld(t)
	w.group(t, settings.Group{ConnectionsPerMinute: 1})
	for i := range 5 {
		if v := w.Connect(t.Context(), peer("branch")); v.Action != mail.ActionPass {
			t.Errorf("connector: %+v", v)
		}
		if v := w.Connect(t.Context(), peer("stranger")); (v.Action == mail.ActionPass) != (i == 0) {
			t.Errorf("stranger: %+v", v)
		}
	}
}

// TestReturns: a rewritten sender takes bounces, and nothing is relayed by it.
func TestReturns(t *testing.T) {
	w := newWorld(t)
	w.deps.Returns = func(a mail.Address) bool { return strings.HasPrefix(a.Local, "SRS0=good=") }
	for _, c := range []struct {
		from, to string
		want     mail.Action
	}{
		{"", "SRS0=good=ab=target.test=bob@example.test", mail.ActionPass},
		{"", "SRS0=good=ab=target.test=b%b@example.test", mail.ActionPass},
		{"", "SRS0=bad=ab=target.test=bob@example.test", mail.ActionRefuse},
		{"", "SRS0=good=ab=target.test=bob@target.test", mail.ActionRefuse},
		{"x@evil.test", "SRS0=good=ab=target.test=bob@example.test", mail.ActionRefuse},
	} {
		if v := w.Recipient(t.Context(), peerAt("198.51.100.7"), &mail.Envelope{From: c.from}, to(c.to)[0]); v.Action != c.want {
			t.Errorf("%v: %+v", c, v)
		}
	}
}

// TestNear: programs of this host and a closed network are not counted, asked
// about or made to wait; what they may do stays the same.
func TestNear(t *testing.T) {
	for _, private := range []bool{false, true} {
		w := newWorld(t)
		w.cfg.Private = private
		w.group(t, settings.Group{ConnectionsPerMinute: 1})
		for addr, many := range map[string]bool{"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "10.1.2.3": private, "fd00::1": private, "198.51.100.7": false} {
			last := mail.Verdict{}
			for range 10 {
				p := peerAt(addr)
				p.Reverse = "known.test"
				w.Failed(p, "password")
				last = w.Connect(t.Context(), p)
			}
			if (last.Action == mail.ActionPass && last.Delay == 0) != many {
				t.Errorf("%s, private %v: %+v", addr, private, last)
			}
			p, e := peerAt(addr), mail.Envelope{From: "x@nothing.test"}
			if v := w.Sender(t.Context(), p, &e); (v.Action == mail.ActionPass) != (private && many) {
				t.Errorf("%s, private %v: sender %+v", addr, private, v)
			}
			if v := w.Recipient(t.Context(), p, &e, to("x@target.test")[0]); v.Action != mail.ActionRefuse {
				t.Errorf("%s, private %v: relays", addr, private)
			}
		}
	}
}

// TestNearMustSign: also in a closed network a connector of a cloud needs its
// signature.
func TestNearMustSign(t *testing.T) {
	w := newWorld(t)
	w.cfg.Private = true
	w.put(t, settings.ConnectorKey("example", "google"), settings.Connector{Name: "google", Organization: "example", Enabled: true,
		Direction: settings.DirectionIn, Kind: settings.KindGoogle, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if v, _ := w.give(t, peerAt("10.1.2.3"), "ann@example.test", []byte(plain), "bob@target.test"); v.Action != mail.ActionRefuse {
		t.Errorf("%+v", v)
	}
}

func TestHello(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		from, helo string
		want       mail.Action
	}{
		{"198.51.100.7", "client.test", mail.ActionPass},
		{"198.51.100.7", "MX.example.test", mail.ActionRefuse},
		{"127.0.0.1", "mx.example.test", mail.ActionPass},
		{"10.1.2.3", "mx.example.test", mail.ActionPass},
	} {
		p := peerAt(c.from)
		p.Helo = c.helo
		if v := w.Hello(t.Context(), p); v.Action != c.want {
			t.Errorf("%v: %+v", c, v)
		}
	}
}

func TestTarpit(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		guesser, neighbour := peerAt("198.51.100.7"), peerAt("198.51.100.8")
		ask := func(p *mail.Peer) time.Duration {
			p.Reverse = "known.test"
			return w.Recipient(context.Background(), p, &mail.Envelope{From: ""}, to("nobody@example.test")[0]).Delay
		}
		for i := range 4 {
			w.Failed(guesser, "password")
			if d := ask(guesser); d != 0 {
				t.Errorf("%d failures: %s", i+1, d)
			}
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 20 * time.Second, 20 * time.Second} {
			w.Failed(guesser, "recipient")
			if d := ask(guesser); d != want {
				t.Errorf("%d failures: %s", i+5, d)
			}
		}
		if ask(neighbour) != maxTarpit || ask(peerAt("198.51.101.1")) != 0 {
			t.Error("not the network, or more than it")
		}
		// Who has just logged in from there is no guesser.
		w.Sender(t.Context(), &mail.Peer{Remote: neighbour.Remote, Account: "example/x"}, &mail.Envelope{})
		if ask(neighbour) != 0 || ask(guesser) != maxTarpit {
			t.Error("a login did not help its own address alone")
		}
		time.Sleep(7 * forgiveEvery)
		if d := ask(guesser); d != 0 {
			t.Errorf("not forgiven: %s", d)
		}
	})
}

// TestTarpitForgives: a network of many people is not held up by some of them.
func TestTarpitForgives(t *testing.T) {
	w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.")
	p := peerAt("198.51.100.7")
	for range 7 {
		w.Failed(p, "recipient")
	}
	if d := w.mem.tarpit(network(p.Remote), p.Remote, time.Now()); d != 4*time.Second {
		t.Fatalf("waits %s", d)
	}
	for range 3 {
		w.give(t, peerAt("198.51.100.8"), "x@friend.test", letter("x@friend.test"), "ann@example.test")
	}
	if d := w.mem.tarpit(network(p.Remote), p.Remote, time.Now()); d != 0 {
		t.Errorf("waits %s", d)
	}
	// Relaying is what guessers try as well.
	for range 5 {
		w.Recipient(t.Context(), p, &mail.Envelope{From: "x@friend.test"}, to("x@target.test")[0])
	}
	if d := w.mem.tarpit(network(p.Remote), p.Remote, time.Now()); d == 0 {
		t.Error("relaying costs nothing")
	}
}

func TestGreylist(t *testing.T) {
	w := newWorld(t)
	w.group(t, settings.Group{Greylist: true, GreylistDelay: conf.Duration(time.Minute)})
	w.put(t, AllowPrefix+"203.0.113.0/24", Entry{Value: "203.0.113.0/24"})
	synctest.Test(t, func(t *testing.T) {
		ask := func(p *mail.Peer, from, rcpt string) mail.Action {
			return w.Recipient(context.Background(), p, &mail.Envelope{From: from}, to(rcpt)[0]).Action
		}
		p := peerAt("198.51.100.7")
		step := func(name string, got, want mail.Action) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %v", name, got)
			}
		}
		step("first", ask(p, "x@friend.test", "ann@example.test"), mail.ActionDefer)
		time.Sleep(30 * time.Second)
		step("too soon", ask(p, "x@friend.test", "ann@example.test"), mail.ActionDefer)
		time.Sleep(31 * time.Second)
		step("retry from beside", ask(peerAt("198.51.100.9"), "X@friend.test", "Ann@example.test"), mail.ActionPass)
		step("known", ask(p, "x@friend.test", "ann@example.test"), mail.ActionPass)
		step("other recipient", ask(p, "x@friend.test", "bea@example.test"), mail.ActionDefer)
		step("allowed network", ask(peerAt("203.0.113.9"), "x@friend.test", "bea@example.test"), mail.ActionPass)
		step("account", ask(&mail.Peer{Account: "example/x", Remote: p.Remote}, "x@friend.test", "bea@example.test"), mail.ActionPass)
		step("unknown stays unknown", ask(p, "x@friend.test", "nobody@example.test"), mail.ActionRefuse)
		time.Sleep(25 * time.Hour)
		step("retry too late", ask(p, "x@friend.test", "bea@example.test"), mail.ActionDefer)
		step("known for long", ask(p, "x@friend.test", "ann@example.test"), mail.ActionPass)
		time.Sleep(36 * 24 * time.Hour)
		step("forgotten", ask(p, "x@friend.test", "ann@example.test"), mail.ActionDefer)
	})
}

// TestServersTell: what one server saw another knows.
func TestServersTell(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	for _, w := range []*world{a, b} {
		w.group(t, settings.Group{Greylist: true, ConnectionsPerMinute: 10, OutboundAccountPerHour: 3})
	}
	synctest.Test(t, func(t *testing.T) {
		a.told = make(chan []byte, 4) // of this bubble
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		p := peerAt("198.51.100.7")
		for range 10 {
			a.Failed(p, "password")
			a.mem.connected(network(p.Remote), 10, time.Now())
		}
		e := mail.Envelope{From: "x@friend.test"}
		a.Recipient(ctx, p, &e, to("ann@example.test")[0])
		a.mem.wrote("example/x", 4, 3, 0, time.Now())
		time.Sleep(gossipEvery)
		batch := <-a.told
		b.Remember([]byte("no batch"))
		b.Remember(batch)
		if v := b.Recipient(ctx, p, &mail.Envelope{From: "y@friend.test"}, to("nobody@example.test")[0]); v.Delay != maxTarpit {
			t.Errorf("failures: %+v", v)
		}
		if v := b.Connect(ctx, p); v.Action != mail.ActionDefer {
			t.Errorf("connections: %+v", v)
		}
		if !b.Held("example/x") || b.Held("example/y") {
			t.Error("outside recipients")
		}
		time.Sleep(3 * time.Minute)
		if v := b.Recipient(ctx, p, &e, to("ann@example.test")[0]); v.Action != mail.ActionPass {
			t.Errorf("first attempt: %+v", v)
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

func TestOutside(t *testing.T) {
	w := newWorld(t)
	w.group(t, settings.Group{OutboundAccountPerHour: 10, OutboundAccountPerDay: 25})
	synctest.Test(t, func(t *testing.T) {
		const account = "example/x"
		write := func(n int, want bool) {
			t.Helper()
			w.wrote(account, mail.Address{Local: "ann", Domain: "example.test"}, n)
			if w.Held(account) != want {
				t.Errorf("held is %v", !want)
			}
		}
		write(10, false)
		write(1, true)
		write(1, true)
		if n := len(w.events.Recent(10)); n != 1 {
			t.Errorf("%d events", n)
		}
		time.Sleep(2 * time.Hour)
		write(9, false)
		time.Sleep(2 * time.Hour)
		write(9, true) // of the day
		w.put(t, AllowPrefix+"ann@example.test", Entry{Value: "ann@example.test"})
		write(1000, false)
	})
}
