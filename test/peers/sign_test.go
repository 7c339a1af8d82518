package peers

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	mdns "github.com/miekg/dns"

	"github.com/postern-mail/postern/test/rig"
)

// python runs one of the programs of python3-dkim on a message, with the fake
// DNS as its resolver.
func (w *world) python(t *testing.T, program string, msg []byte, args ...string) (string, error) {
	t.Helper()
	host, port, _ := strings.Cut(w.dns.addr, ":")
	script := fmt.Sprintf(`import sys, dns.resolver
r = dns.resolver.Resolver(configure=False); r.nameservers = [%q]; r.port = %s
dns.resolver.default_resolver = r
from dkim.%s import main
sys.exit(main())`, host, port, program)
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", append([]string{"-c", script}, args...)...)
	cmd.Stdin = bytes.NewReader(msg)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil || out.Len() == 0 {
		return out.String(), fmt.Errorf("%s: %v: %s", program, err, errs.String())
	}
	return out.String(), nil
}

// txt looks into the fake DNS for go-msgauth.
func (w *world) txt(name string) ([]string, error) {
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), mdns.TypeTXT)
	in, _, err := (&mdns.Client{Net: "tcp"}).Exchange(m, w.dns.addr)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range in.Answer {
		if x, ok := rr.(*mdns.TXT); ok {
			out = append(out, strings.Join(x.Txt, ""))
		}
	}
	return out, nil
}

// testSigns makes keys of both algorithms, puts their records into DNS as a
// person would, and lets others verify what leaves then.
func testSigns(t *testing.T, w *world) {
	w.host.Do("transport", "set", "dkim_wait", "1s")
	type key struct {
		Selector  string `json:"selector"`
		Algorithm string `json:"algorithm"`
		State     string `json:"state"`
		Record    string `json:"record"`
		Value     string `json:"value"`
	}
	w.host.Do("domain", "add", "signed.test", "--organization", "example")
	const from, to = "ann@signed.test", "reader@postfix.test"
	w.host.Do("mailbox", "create", from, "--database", "DB01", "--password", password)
	var made []key
	rig.Must(t, w.host.Command(t.Context(), &made, "dkim", "create", "signed.test"))
	if len(made) != 2 {
		t.Fatalf("keys are %+v", made)
	}
	for _, k := range made {
		w.dns.text(k.Record, k.Value)
	}
	rig.Eventually(t, time.Minute, "both keys sign", func() error {
		var now []key
		err := w.host.Command(t.Context(), &now, "dkim", "list", "--domain", "signed.test")
		for _, k := range now {
			if k.State != "signing" {
				err = fmt.Errorf("%+v", now)
			}
		}
		return err
	})
	raw := letter(from, to, "signed twice")
	rig.Must(t, w.submit(from, raw, nil, to))
	got := w.postfix.only(t, to)
	if !strings.HasSuffix(got, unix(raw)) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
	// The file has what Postfix put in front, which is not signed.
	arrived := []byte(strings.ReplaceAll(got, "\n", "\r\n"))
	if n := strings.Count(got, "DKIM-Signature:"); n != 2 {
		t.Fatalf("%d signatures:\n%s", n, got)
	}
	for i := range 2 {
		if out, err := w.python(t, "dkimverify", arrived, "--index", fmt.Sprint(i)); err != nil || !strings.Contains(out, "signature ok") {
			t.Errorf("signature %d: %s %v\n%s", i, out, err, got)
		}
	}
	forged := bytes.Replace(arrived, []byte("The words"), []byte("The swords"), 1)
	if out, err := w.python(t, "dkimverify", forged); err == nil {
		t.Errorf("a changed message is verified: %s", out)
	}
	list, err := dkim.VerifyWithOptions(bytes.NewReader(arrived), &dkim.VerifyOptions{LookupTXT: w.txt})
	if err != nil || len(list) != 2 {
		t.Fatalf("%d verifications: %v", len(list), err)
	}
	for _, v := range list {
		if v.Err != nil || v.Domain != "signed.test" {
			t.Errorf("signature of %s: %v", v.Domain, v.Err)
		}
	}
	w.forwards(t)
}

// forwards passes a stranger's mail on to Postfix, once there is a key: it is
// sealed, leaves for a sender whose bounces come back, and they do.
func (w *world) forwards(t *testing.T) {
	const from, here, there = "writer@writes.test", "moved@signed.test", "elsewhere@postfix.test"
	w.dns.add(t, "writes.test. 60 IN MX 10 mx.postfix.test.")
	w.dns.text("writes.test", "v=spf1 ip4:"+goodIP+" -all")
	w.policy.say(from, "450 4.2.1 on holiday")
	file := w.rsaKey(t, "writes.test", "w1")
	w.host.Do("mailbox", "create", here, "--database", "DB01", "--password", password)
	w.host.Do("mailbox", "set", here, "--forward", there)
	signed, err := w.python(t, "dkimsign", letter(from, here, "forwarded"), "w1", "writes.test", file)
	rig.Must(t, err)
	rig.Must(t, w.bring(stranger(t, w.host.SMTP(), goodIP), from, []byte(signed), nil, nil, here))
	got := w.postfix.only(t, there)
	if !strings.HasSuffix(got, unix([]byte(signed))) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
	arrived := []byte(strings.ReplaceAll(got, "\n", "\r\n"))
	if out, err := w.python(t, "arcverify", arrived); err != nil || !strings.Contains(out, "cv=b'pass'") {
		t.Errorf("the seal: %s %v\n%s", out, err, got)
	}
	if out, err := w.python(t, "dkimverify", arrived); err != nil || !strings.Contains(out, "signature ok") {
		t.Errorf("the author's signature: %s %v", out, err)
	}
	_, facts := w.policy.times(there)
	srs := facts["sender"]
	if !strings.HasPrefix(srs, "SRS0=") || !strings.HasSuffix(srs, "@signed.test") {
		t.Errorf("the sender is %q", srs)
	}
	for i, c := range []struct {
		to string
		ok bool
	}{{srs, true}, {strings.Replace(srs, "writes.test", "forged.test", 1), false}} {
		err := w.bring(stranger(t, w.host.SMTP(), fmt.Sprintf("198.51.100.%d", 80+i)), "", letter("postmaster@postfix.test", c.to, "returned"), nil, nil, c.to)
		if c.ok != (err == nil) {
			t.Errorf("a bounce to %s: %v", c.to, err)
		}
	}
	w.state(t, from, "deferred") // it found the way
}
