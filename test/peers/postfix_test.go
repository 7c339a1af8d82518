package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/rig"
)

// postfixIP is where Postfix receives.
const postfixIP = "127.0.0.21"

// postfix is an instance of Postfix in a folder of its own. It takes mail for
// postfix.test into a maildir and relays mail for example.test to the server.
type postfix struct {
	t    *testing.T
	dir  string
	port int
}

// startPostfix starts it in the background; ready waits.
func startPostfix(t *testing.T, dir string, port, policyPort int, next, nextName, ca string) (p *postfix, ready func()) {
	t.Helper()
	p = &postfix{t: t, dir: dir, port: port}
	owner, err := user.Lookup("postfix")
	rig.Must(t, err)
	keeper, err := user.Lookup("mail") // of the a maildir
	rig.Must(t, err)
	for _, d := range []string{"conf", "queue", "data", "mail"} {
		rig.Must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for d, u := range map[string]*user.User{"data": owner, "mail": keeper} {
		uid, err := strconv.Atoi(u.Uid)
		rig.Must(t, err)
		rig.Must(t, os.Chown(filepath.Join(dir, d), uid, 0))
	}
	selfSigned(t, "mx.postfix.test", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	files := map[string]string{"conf/master.cf": masterCf(port),
		"conf/main.cf": strings.NewReplacer("@DIR@", dir, "@POLICY@", strconv.Itoa(policyPort), "@NEXT@", next, "@NAME@", nextName, "@CA@", ca,
			"@UID@", keeper.Uid, "@GID@", keeper.Gid).Replace(mainCf)}
	for name, text := range files {
		rig.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	done := make(chan error, 1)
	go func() {
		out, err := exec.Command("/usr/sbin/postfix", "-c", filepath.Join(dir, "conf"), "start").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("postfix start: %w: %s", err, out)
		}
		done <- err
	}()
	started := false
	wait := func() {
		if !started {
			started = true
			rig.Must(t, <-done)
		}
	}
	t.Cleanup(func() {
		wait()
		_ = exec.Command("/usr/sbin/postfix", "-c", filepath.Join(dir, "conf"), "stop").Run() // it may be gone
		if b, err := os.ReadFile(filepath.Join(dir, "postfix.log")); err == nil && t.Failed() {
			t.Logf("the end of what Postfix said:\n%s", b[max(0, len(b)-8000):])
		}
	})
	return p, func() {
		t.Helper()
		wait()
		answers(t, p.addr())
	}
}

func (p *postfix) addr() string { return fmt.Sprintf("%s:%d", postfixIP, p.port) }

// messages are those for an address.
func (p *postfix) messages(to string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(p.dir, "mail", "all", "new", "*"))
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if header, _, _ := strings.Cut(string(b), "\n\n"); strings.Contains(header, "\nDelivered-To: "+to+"\n") {
			out = append(out, string(b))
		}
	}
	return out, err
}

// only waits for the one message for an address.
func (p *postfix) only(t *testing.T, to string) (msg string) {
	t.Helper()
	rig.Eventually(t, 30*time.Second, "Postfix delivers to "+to, func() error {
		all, err := p.messages(to)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d messages", len(all))
		}
		if err == nil {
			msg = all[0]
		}
		return err
	})
	return msg
}

// log are its log lines with a text.
func (p *postfix) log(text string) (out []string) {
	b, err := os.ReadFile(filepath.Join(p.dir, "postfix.log"))
	rig.Must(p.t, err)
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, text) {
			out = append(out, l)
		}
	}
	return out
}

// selfSigned writes a certificate that nobody vouches for.
func selfSigned(t *testing.T, name, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rig.Must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	rig.Must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	rig.Must(t, err)
	rig.Must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	rig.Must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
}

const mainCf = `
compatibility_level = 3.6
queue_directory = @DIR@/queue
data_directory = @DIR@/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = @DIR@
maillog_file = @DIR@/postfix.log
myhostname = mx.postfix.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
local_recipient_maps =
mynetworks = 127.255.255.255/32
smtpd_peername_lookup = no
smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:@POLICY@, reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_cert_file = @DIR@/cert.pem
smtpd_tls_key_file = @DIR@/key.pem
smtpd_tls_received_header = yes
virtual_mailbox_domains = postfix.test
virtual_mailbox_base = @DIR@/mail
virtual_mailbox_maps = static:all/
virtual_minimum_uid = 1
virtual_uid_maps = static:@UID@
virtual_gid_maps = static:@GID@
relay_domains = example.test
relay_recipient_maps =
transport_maps = inline:{{example.test=smtp:@NEXT@}}
smtp_host_lookup = native
smtp_tls_security_level = verify
smtp_tls_verify_cert_match = @NAME@
smtp_tls_CAfile = @CA@
smtp_tls_loglevel = 1
bounce_queue_lifetime = 0
`

func masterCf(port int) string {
	return fmt.Sprintf("%s:%d inet n - n - - smtpd\n", postfixIP, port) + `pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
`
}
