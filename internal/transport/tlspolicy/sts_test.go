package tlspolicy

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRecord(t *testing.T) {
	for _, tt := range []struct {
		txt []string
		id  string
	}{
		{[]string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"},
		{[]string{"v=STSv1;id=a"}, "a"},
		{[]string{"v=STSv1 ; x=y; id=a; id=b"}, "a"},
		{[]string{"something else", "v=STSv1; id=a"}, "a"},
		{nil, ""},
		{[]string{"v=STSv1; id=a", "v=STSv1; id=b"}, ""},
		{[]string{"v=STSv2; id=a"}, ""},
		{[]string{"v=STSv1"}, ""},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
		{[]string{"v=STSv1; id=a b"}, ""},
		{[]string{"id=a; v=STSv1"}, ""},
	} {
		if id, err := parseRecord(tt.txt); id != tt.id || (err == nil) != (tt.id != "") {
			t.Errorf("%q: %q, %v", tt.txt, id, err)
		}
	}
}

func TestPolicyText(t *testing.T) {
	s, err := parsePolicy([]byte("version: STSv1\nmode: testing\nmx: Mail.Example.com.\nmx:*.bücher.test\nmax_age: 99999999\nmax_age: 1\nnew: thing\nodd\n"))
	if err != nil || s.Mode != ModeTesting || strings.Join(s.MX, " ") != "mail.example.com *.xn--bcher-kva.test" || s.MaxAge != maxAge*time.Second {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := parsePolicy([]byte("max_age: 5\r\nmode: none\r\nversion: STSv1")); err != nil || s.Mode != ModeNone {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "version: STSv1\nmode: enforce\nmax_age: 5", "version: STSv2\nmode: none\nmax_age: 5", "version: STSv1\nmode: odd\nmx: a\nmax_age: 5",
		"version: STSv1\nmode: none", "version: STSv1\nmode: none\nmax_age: -5", "version: STSv1\nmode: none\nmax_age: 99999999999999",
		"version: STSv1\nmode: enforce\nmax_age: 5\nmx: *.*.x", "version: STSv1\nmode: enforce\nmax_age: 5\nmx: [192.0.2.1]", "version: STSv1\nmode: enforce\nmax_age: 5\nmx:",
		"version: STSv1\nmode: enforce\nmax_age: 5\n" + strings.Repeat("mx: a.test\n", 501), strings.Repeat("x", maxPolicy+1)} {
		if s, err := parsePolicy([]byte(bad)); err == nil {
			t.Errorf("%.60q: %+v", bad, s)
		}
	}
}

// TestLines: what a policy is said to be is that policy.
func TestLines(t *testing.T) {
	want := STS{Mode: ModeTesting, MX: []string{"mx.a.test", "*.b.test"}, MaxAge: time.Hour}
	got, err := parsePolicy([]byte(strings.Join(want.Lines(), "\n")))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v from %q", got, err, want.Lines())
	}
	if (STS{}).Lines() != nil {
		t.Error("no policy has lines")
	}
}

func TestAllows(t *testing.T) {
	s := STS{MX: []string{"*.mx.test", "one.test"}}
	for host, want := range map[string]bool{"a.mx.test": true, "A.MX.test.": true, "one.test": true, "mx.test": false, "b.a.mx.test": false, "two.test": false, "x.one.test": false, "": false, "amx.test": false} {
		if s.Allows(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

func TestFetch(t *testing.T) {
	w := newWorld(t, "mta-sts.a.test")
	if _, err := w.p.For(t.Context(), "A.test"); err != nil {
		t.Fatal(err)
	}
	s, err := w.p.For(t.Context(), "a.test")
	if err != nil || s.Mode != ModeEnforce || s.ID != "1" || len(s.MX) != 2 || w.fetched.Load() != 1 {
		t.Fatalf("%+v, %v after %d fetches", s, err, w.fetched.Load())
	}
	for _, none := range []string{"b.test", "[192.0.2.1]", "not a domain"} {
		if s, err := w.p.For(t.Context(), none); s.Mode != "" || err != nil {
			t.Errorf("%s: %+v, %v", none, s, err)
		}
	}
	// A new id is another policy; one that cannot be fetched leaves the old.
	w.zone.set(func() { w.zone.txt["_mta-sts.a.test"] = []string{"v=STSv1; id=2"} })
	w.page.Store(text("garbage"))
	for range 2 {
		if s, err := w.p.For(t.Context(), "a.test"); s.ID != "1" || s.Mode != ModeEnforce || err == nil || w.fetched.Load() != 2 {
			t.Errorf("%+v, %v after %d fetches", s, err, w.fetched.Load())
		}
	}
	w.page.Store(text(strings.Replace(enforce, "enforce", "testing", 1)))
	w.now = w.now.Add(retryAfter)
	if s, err := w.p.For(t.Context(), "a.test"); s.ID != "2" || s.Mode != ModeTesting || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	// A day later it is looked at again though the id is the same.
	w.now = w.now.Add(refreshAfter)
	n := w.fetched.Load()
	if _, err := w.p.For(t.Context(), "a.test"); err != nil || w.fetched.Load() != n+1 {
		t.Errorf("%v after %d fetches", err, w.fetched.Load())
	}
}

// TestSilence: who takes record and web server away does not take the policy
// away, not even with a restart between.
func TestSilence(t *testing.T) {
	w := newWorld(t, "mta-sts.a.test")
	if s, err := w.p.For(t.Context(), "a.test"); err != nil || s.Mode != ModeEnforce {
		t.Fatal(err)
	}
	again := w.policies(w.p.o)
	for name, breakIt := range map[string]func(){
		"no answer":   func() { w.zone.busy["_mta-sts.a.test"] = true },
		"no record":   func() { delete(w.zone.txt, "_mta-sts.a.test"); delete(w.zone.busy, "_mta-sts.a.test") },
		"two records": func() { w.zone.txt["_mta-sts.a.test"] = []string{"v=STSv1; id=1", "v=STSv1; id=2"} },
		"no web server": func() {
			w.zone.txt["_mta-sts.a.test"] = []string{"v=STSv1; id=3"}
			delete(w.zone.addrs, "mta-sts.a.test")
		},
	} {
		w.zone.set(breakIt)
		for _, p := range []*Policies{w.p, again} {
			if s, _ := p.For(t.Context(), "a.test"); s.Mode != ModeEnforce || s.ID != "1" {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
	w.now = w.now.Add(604800 * time.Second)
	for _, p := range []*Policies{w.p, again} {
		if s, _ := p.For(t.Context(), "a.test"); s.Mode != "" {
			t.Errorf("it holds beyond its max_age: %+v", s)
		}
	}
}

// TestBadWeb: what the web server may do without being believed.
func TestBadWeb(t *testing.T) {
	handler := func(f func(w http.ResponseWriter, r *http.Request)) *http.HandlerFunc {
		h := http.HandlerFunc(f)
		return &h
	}
	for name, page := range map[string]*http.HandlerFunc{
		"redirect": handler(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://mta-sts.a.test"+wellKnown, http.StatusFound)
		}),
		"not found": handler(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, enforce)
		}),
		"html": handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, enforce)
		}),
		"no type": handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			io.WriteString(w, enforce)
		}),
		"endless": text(enforce + strings.Repeat("x: y\r\n", maxPolicy)),
		"hang up": handler(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }),
		"big header": handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			io.WriteString(w, enforce)
		}),
	} {
		w := newWorld(t, "mta-sts.a.test")
		w.page.Store(page)
		if s, err := w.p.For(t.Context(), "a.test"); s.Mode != "" || err == nil || w.fetched.Load() != 1 {
			t.Errorf("%s: %+v, %v after %d", name, s, err, w.fetched.Load())
		}
		if _, err := w.p.For(t.Context(), "a.test"); err == nil || w.fetched.Load() != 1 {
			t.Errorf("%s: fetched again at once: %v", name, err)
		}
	}
}

func TestBadHost(t *testing.T) {
	was := log.Writer()
	log.SetOutput(io.Discard) // the web server tells about handshakes there
	t.Cleanup(func() { log.SetOutput(was) })
	w := newWorld(t, "a.test") // the certificate is for another name
	if s, err := w.p.For(t.Context(), "a.test"); s.Mode != "" || err == nil {
		t.Errorf("%+v, %v", s, err)
	}
	w = newWorld(t, "mta-sts.a.test")
	w.zone.set(func() {
		w.zone.addrs["mta-sts.a.test"] = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("100.64.1.1"), netip.MustParseAddr("fe80::1")}
	})
	if s, err := w.p.For(t.Context(), "a.test"); s.Mode != "" || err == nil || w.fetched.Load() != 0 {
		t.Errorf("fetched from this host: %+v, %v", s, err)
	}
}

func TestPublic(t *testing.T) {
	for ip, want := range map[string]bool{"198.51.100.1": true, "2001:db8::1": true, "::ffff:127.0.0.1": false, "127.0.0.1": false, "0.1.2.3": false, "10.1.1.1": false, "169.254.1.1": false,
		"100.127.0.1": false, "198.19.0.1": false, "255.255.255.255": false, "224.0.0.1": false, "::": false, "::1": false, "fd00::1": false, "fe80::1": false, "ff02::1": false} {
		if public(netip.MustParseAddr(ip)) != want {
			t.Errorf("%s: %v", ip, !want)
		}
	}
}

// TestCrowd: many messages for a domain at once make one fetch, and who gives
// up takes nobody with it.
func TestCrowd(t *testing.T) {
	w := newWorld(t, "mta-sts.a.test")
	begun, open := make(chan struct{}), make(chan struct{})
	inner := *text(enforce)
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { close(begun); <-open; inner(rw, r) })
	w.page.Store(&h)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if s, err := w.p.For(t.Context(), "a.test"); err != nil || s.Mode != ModeEnforce {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.p.For(ctx, "a.test"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(open)
	wg.Wait()
	if n := w.fetched.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func FuzzSTS(f *testing.F) {
	f.Add("v=STSv1; id=1;", enforce, "a.mx.test")
	f.Add("v=STSv1;id=", "version:STSv1\nmode:none\nmax_age:0\nmx:*.", "")
	f.Fuzz(func(t *testing.T, record, policy, host string) {
		if id, err := parseRecord([]string{record}); err == nil && (id == "" || len(id) > maxPolicyID) {
			t.Fatalf("id %q", id)
		}
		s, err := parsePolicy([]byte(policy))
		if err != nil {
			return
		}
		if s.MaxAge < 0 || s.MaxAge > maxAge*time.Second || len(s.MX) > maxPatterns || s.Mode == "" {
			t.Fatalf("%+v", s)
		}
		if s.Allows(host) && host == "" {
			t.Fatalf("%+v allows a host without a name", s)
		}
	})
}
