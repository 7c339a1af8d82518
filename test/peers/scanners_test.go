package peers

import (
	"fmt"
	"net/http"
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

// daemon starts a program that ends with the test.
func (w *world) daemon(name string, args ...string) {
	w.t.Helper()
	cmd := exec.Command(name, args...)
	var out rig.Output
	cmd.Stdout, cmd.Stderr = &out, &out
	rig.Must(w.t, w.program.Start(cmd))
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its words are in out
		close(done)
	}()
	w.t.Cleanup(func() {
		rig.Stop(cmd, done)
		if text := out.String(); w.t.Failed() && text != "" {
			w.t.Logf("the end of what %s said:\n%s", filepath.Base(name), text[max(0, len(text)-2000):])
		}
	})
}

// eicar is the test file that every malware scanner calls malware, in two
// pieces so that this file is none.
const eicar = `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-` + `STANDARD-ANTIVIRUS-TEST-FILE!$H+H*`

// gtube is the text that every spam scanner calls spam, in two pieces as well.
const gtube = `XJS*C4JDBQADN1.NSBN3*2IDNEN*` + `GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X`

// startClamd starts ClamAV's daemon with one signature, that of EICAR: the real
// ones are a download of hundreds of megabytes.
func (w *world) startClamd(port int) (ready func(t *testing.T)) {
	dir := w.folder("clamd")
	for _, d := range []string{"db", "tmp"} {
		rig.Must(w.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	w.write(filepath.Join(dir, "db", "eicar.ndb"), fmt.Sprintf("Eicar-Test-Signature:0:*:%x\n", eicar))
	conf := filepath.Join(dir, "clamd.conf")
	w.write(conf, strings.NewReplacer("@DIR@", dir, "@PORT@", strconv.Itoa(port)).Replace(`Foreground true
User root
TCPSocket @PORT@
TCPAddr 127.0.0.1
DatabaseDirectory @DIR@/db
TemporaryDirectory @DIR@/tmp
AlertExceedsMax true
StreamMaxLength 100M
`))
	w.daemon("/usr/sbin/clamd", "--config-file="+conf)
	return func(t *testing.T) { t.Helper(); answers(t, fmt.Sprintf("127.0.0.1:%d", port)) }
}

// startRspamd starts rspamd with Debian's configuration, but the fake DNS, one
// worker, and no compilation of patterns, which takes minutes.
func (w *world) startRspamd(port int) (ready func(t *testing.T)) {
	dir := w.folder("rspamd")
	owner, err := user.Lookup("_rspamd")
	rig.Must(w.t, err)
	uid, err := strconv.Atoi(owner.Uid)
	rig.Must(w.t, err)
	for _, d := range []string{"local", "db", "run", "log"} {
		rig.Must(w.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		rig.Must(w.t, os.Chown(filepath.Join(dir, d), uid, 0))
	}
	// Its servers for similar messages are on the Internet.
	rig.Must(w.t, os.MkdirAll(filepath.Join(dir, "local", "override.d"), 0o755))
	w.write(filepath.Join(dir, "local", "override.d", "fuzzy_check.conf"), "enabled = false;\nrule \"rspamd.com\" { servers = \"127.0.0.1:9\"; }\n")
	conf := filepath.Join(dir, "rspamd.conf")
	w.write(conf, strings.NewReplacer("@DIR@", dir, "@PORT@", strconv.Itoa(port), "@DNS@", w.dns.addr).Replace(`
.include "$CONFDIR/common.conf"
options {
  .include "$CONFDIR/options.inc"
  pidfile = "@DIR@/run/rspamd.pid";
  disable_hyperscan = true;
  dns { nameserver = ["@DNS@"]; timeout = 1s; retransmits = 1; }
}
logging { type = "console"; level = "warning"; }
worker "normal" { .include "$CONFDIR/worker-normal.inc"; bind_socket = "127.0.0.1:@PORT@"; count = 1; }
`))
	args := []string{"-f", "-u", "_rspamd", "-g", "_rspamd", "-c", conf}
	for k, v := range map[string]string{"LOCAL_CONFDIR": "local", "DBDIR": "db", "RUNDIR": "run", "LOGDIR": "log"} {
		args = append(args, "--var="+k+"="+filepath.Join(dir, v))
	}
	w.daemon("/usr/bin/rspamd", args...)
	return func(t *testing.T) {
		t.Helper()
		rig.Eventually(t, 150*time.Second, "rspamd answers", func() error {
			r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ping", port))
			if err != nil {
				return err
			}
			return r.Body.Close()
		})
	}
}
