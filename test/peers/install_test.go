package peers

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// needed are a file of each package that has to be installed.
var needed = [...]struct{ file, pkg string }{
	{"/usr/lib/postfix/sbin/master", "postfix"},
	{"/usr/bin/swaks", "swaks"},
	{"/usr/bin/rspamd", "rspamd"},
	{"/usr/sbin/clamd", "clamav-daemon"},
	{"/usr/bin/dkimverify", "python3-dkim"},
	{"/usr/lib/python3/dist-packages/dns/resolver.py", "python3-dnspython"},
	{"/usr/lib/python3/dist-packages/nacl/__init__.py", "python3-nacl"},
}

// install brings in what is missing. Services that packages start by
// themselves are kept from starting: the tests start their own.
func install(t *testing.T) {
	t.Helper()
	var missing []string
	for _, n := range needed {
		if _, err := os.Stat(n.file); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if len(missing) == 0 && os.Geteuid() == 0 {
		return
	}
	line := "apt-get install --no-install-recommends " + strings.Join(missing, " ")
	if os.Geteuid() != 0 {
		t.Fatalf("these tests need root (for Postfix); missing packages: %s", line)
	}
	t.Logf("installing %s", strings.Join(missing, " "))
	script := fmt.Sprintf(`set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; trap 'rm -f '$policy EXIT; fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive %s -q -y </dev/null`, line)
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}
