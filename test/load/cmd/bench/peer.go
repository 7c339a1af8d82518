package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// peer is Postfix with Dovecot in a folder and on ports of their own.
type peer struct {
	dir      string
	domain   string
	password string
	smtp     int
	imaps    int
	relay    string // host:port of all mail that is not for the domain
	started  bool   // Postfix, or it was tried
	master   int    // Postfix
	dovecot  *exec.Cmd
	gone     chan struct{} // dovecot is
}

// missing names what has to be installed for a comparison.
func missing() error {
	for _, f := range []string{"/usr/sbin/postfix", "/usr/lib/postfix/sbin/master", "/usr/sbin/dovecot", "/usr/lib/dovecot/imap", "/usr/lib/dovecot/lmtp"} {
		if _, err := os.Stat(f); err != nil {
			return errors.New("no " + f + " (hint: apt-get install postfix dovecot-imapd dovecot-lmtpd)")
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("starting Postfix needs root")
	}
	return nil
}

// startPeer starts both and waits until they answer.
func startPeer(ctx context.Context, dir, domain, password string, basePort int, relay string) (*peer, error) {
	if err := missing(); err != nil {
		return nil, err
	}
	p := &peer{dir: dir, domain: domain, password: password, relay: relay, smtp: basePort + 25, imaps: basePort + 93}
	if err := p.configure(); err != nil {
		return nil, err
	}
	p.dovecot = exec.Command("/usr/sbin/dovecot", "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	var said bytes.Buffer
	p.dovecot.Stdout, p.dovecot.Stderr = &said, &said
	// A group of its own: Ctrl-C is for this program, which stops Dovecot in its time.
	p.dovecot.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.dovecot.Start(); err != nil {
		return nil, err
	}
	p.gone = make(chan struct{})
	go func() {
		_ = p.dovecot.Wait() // its words are in said
		close(p.gone)
	}()
	p.started = true
	if out, err := exec.CommandContext(ctx, "/usr/sbin/postfix", "-c", filepath.Join(dir, "postfix"), "start").CombinedOutput(); err != nil {
		p.stop()
		return nil, fmt.Errorf("postfix start: %w: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "queue", "pid", "master.pid"))
	if err == nil {
		p.master, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err == nil {
		err = p.answers(ctx)
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%w; dovecot: %s", err, said.String())
	}
	return p, nil
}

func (p *peer) answers(ctx context.Context) error {
	for _, port := range []int{p.smtp, p.imaps} {
		if err := waitPort(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

func waitPort(ctx context.Context, port int) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	end := time.NewTimer(20 * time.Second)
	defer end.Stop()
	for {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return c.Close()
		}
		select {
		case <-t.C:
		case <-end.C:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopWait is how long each of both has to end before it is killed.
const stopWait = 10 * time.Second

// stop ends both and waits until they are gone.
func (p *peer) stop() {
	if p.started {
		_ = exec.Command("/usr/sbin/postfix", "-c", filepath.Join(p.dir, "postfix"), "stop").Run() // it may be gone
	}
	all := load.Tree(p.dovecot.Process.Pid)
	_ = p.dovecot.Process.Signal(os.Interrupt)
	t := time.NewTimer(stopWait)
	defer t.Stop()
	select {
	case <-p.gone:
	case <-t.C:
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
		}
		<-p.gone
	}
}

func (p *peer) pids() []int { return load.Tree(p.master, p.dovecot.Process.Pid) }

func (p *peer) configure() error {
	mail, err := user.Lookup("mail")
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(mail.Uid) // of the system's own user table
	gid, _ := strconv.Atoi(mail.Gid)
	for _, d := range []string{"postfix", "queue", "data", "mail", "run", "state"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(p.dir, "mail"), uid, gid); err != nil {
		return err
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		return err
	}
	ouid, _ := strconv.Atoi(owner.Uid)
	if err := os.Chown(filepath.Join(p.dir, "data"), ouid, 0); err != nil {
		return err
	}
	if err := p.certificate(); err != nil {
		return err
	}
	for name, text := range map[string]string{"dovecot.conf": p.dovecotConf(), "postfix/main.cf": p.mainCf(), "postfix/master.cf": p.masterCf()} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (p *peer) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(p.ca(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func (p *peer) ca() string { return filepath.Join(p.dir, "cert.pem") }

// dovecotConf takes Dovecot's own advice for many clients: login processes
// that serve many, and processes kept ready.
func (p *peer) dovecotConf() string {
	return strings.NewReplacer("@DIR@", p.dir, "@PORT@", strconv.Itoa(p.imaps), "@PW@", p.password).Replace(`
protocols = imap lmtp
listen = 127.0.0.1
base_dir = @DIR@/run
state_dir = @DIR@/state
log_path = @DIR@/dovecot.log
ssl = required
ssl_cert = <@DIR@/cert.pem
ssl_key = <@DIR@/key.pem
mail_location = sdbox:~/sdbox
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
mail_fsync = optimized
auth_cache_size = 10M
default_process_limit = 6000
default_client_limit = 8000
passdb {
  driver = static
  args = password=@PW@
}
userdb {
  driver = static
  args = uid=mail gid=mail home=@DIR@/mail/%u
}
protocol imap {
  mail_max_userip_connections = 5000
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = @PORT@
    ssl = yes
  }
}
service imap {
  process_limit = 6000
}
service lmtp {
  process_min_avail = 4
  unix_listener @DIR@/run/lmtp-bench {
    mode = 0666
  }
}
`)
}

func (p *peer) mainCf() string {
	host, port, _ := strings.Cut(p.relay, ":")
	return strings.NewReplacer("@DIR@", p.dir, "@DOMAIN@", p.domain, "@RELAY@", "["+host+"]:"+port).Replace(`
compatibility_level = 3.6
queue_directory = @DIR@/queue
data_directory = @DIR@/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = @DIR@
maillog_file = @DIR@/postfix.log
myhostname = localhost.localdomain
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
virtual_mailbox_domains = @DOMAIN@
virtual_mailbox_maps = static:ok
virtual_transport = lmtp:unix:@DIR@/run/lmtp-bench
local_recipient_maps =
mynetworks = 127.0.0.0/8
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
default_process_limit = 400
virtual_destination_concurrency_limit = 20
lmtp_destination_concurrency_limit = 20
lmtp_destination_recipient_limit = 50
relayhost = @RELAY@
disable_dns_lookups = yes
smtp_tls_security_level = none
smtp_destination_concurrency_limit = 20
message_size_limit = 52428800
`)
}

func (p *peer) masterCf() string {
	return fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd\n", p.smtp) + `pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       n       -       -       lmtp
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
`
}
