package peers

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/load"
	"github.com/postern-mail/postern/test/rig"
)

// Ports of what runs here. They lie below those from which the kernel lets
// connections of clients go out.
const (
	basePort    = 27000 // of the server, from 27100
	remotePort  = 28025 // at which all other mail servers are
	dnsPort     = 28053
	policyPort  = 28090
	clamdPort   = 28091
	rspamdPort  = 28092
	password    = "correct horse battery"
	ann         = "ann@example.test"
	bob         = "bob@example.test"
	mailboxWait = 30 * time.Second
)

// world is a server and those it has to do with.
type world struct {
	t       *testing.T
	program rig.Program
	dir     string
	dns     *zone
	policy  *policy
	postfix *postfix
	host    *rig.Host
	tls     *tls.Config

	spam, malware *gate // on the way to the scanners
	rspamd        func(*testing.T)
}

func (w *world) folder(name string) string {
	d := filepath.Join(w.dir, name)
	rig.Must(w.t, os.MkdirAll(d, 0o755))
	return d
}

func (w *world) write(path, text string) { rig.Must(w.t, os.WriteFile(path, []byte(text), 0o644)) }

// newWorld starts all of it, what takes longest first.
func newWorld(t *testing.T) *world {
	t.Helper()
	install(t)
	// Daemons that are not root have to get to what is theirs.
	dir, err := os.MkdirTemp("", "postern-peers-")
	rig.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	rig.Must(t, os.Chmod(dir, 0o755))
	w := &world{t: t, dir: dir}
	w.program, err = rig.Build("../..", dir)
	rig.Must(t, err)
	local := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	w.dns = startDNS(t, local(dnsPort))
	w.dns.add(t, "example.test. 60 IN MX 10 mbx1.example.test.", "mbx1.example.test. 60 IN A 127.0.0.1",
		"postfix.test. 60 IN MX 10 mx.postfix.test.", "mx.postfix.test. 60 IN A "+postfixIP)
	w.rspamd = w.startRspamd(rspamdPort)
	clamd := w.startClamd(clamdPort)
	w.spam, w.malware = newGate(t, local(rspamdPort), nil), newGate(t, local(clamdPort), nil)
	w.policy = startPolicy(t, local(policyPort))
	w.host = rig.NewHost(t, w.program, dir, "MBX1", basePort, 1, rig.Extra{
		Transport: fmt.Sprintf("remote_port = %d\n[transport.dns]\nservers = [%q]\n[transport.rspamd]\nurl = \"http://%s\"\n[transport.clamd]\naddress = %q",
			remotePort, w.dns.addr, w.spam.addr, w.malware.addr),
		Receive: fmt.Sprintf("proxy_from = [\"%s/32\"]", balancerIP),
	})
	var postfixReady func()
	w.postfix, postfixReady = startPostfix(t, w.folder("postfix"), remotePort, policyPort, "["+w.host.SMTP()[:9]+"]:"+w.host.SMTP()[10:], w.host.Hostname(), w.host.CA())
	w.host.Start()
	w.host.Whole(1)
	w.host.Do("organization", "create", "example")
	w.host.Do("domain", "add", "example.test", "--organization", "example")
	for _, a := range []string{ann, bob} {
		w.host.Do("mailbox", "create", a, "--database", "DB01", "--password", password)
	}
	w.tls, err = load.Trust(w.host.CA())
	rig.Must(t, err)
	postfixReady()
	clamd(t)
	return w
}

// TestPeers runs all tests in one world: the scanner takes its time to start.
func TestPeers(t *testing.T) {
	w := newWorld(t)
	w.spam.shut() // until it is there; without it, mail goes on
	t.Run("beside each other", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *world){
			"relays to Postfix":    testRelays,
			"Postfix defers":       testDeferred,
			"Postfix refuses":      testReturned,
			"Postfix relays to us": testPostfixSends,
			"addresses in UTF-8":   testInternational,
			"signs":                testSigns,
			"judges strangers":     testStrangers,
			"believes a sealer":    testSealed,
			"proves tenants":       testTenants,
			"relays for nobody":    testOpenRelay,
			"takes mail of users":  testSubmission,
			"takes many commands":  testPipelining,
			"refuses malware":      testMalware,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t, w)
			})
		}
	})
	for _, c := range []struct {
		name string
		f    func(*testing.T, *world)
	}{{"finds spam", testSpam}, {"scanners that are down", testScannersDown}} {
		t.Run(c.name, func(t *testing.T) { c.f(t, w) })
	}
}
