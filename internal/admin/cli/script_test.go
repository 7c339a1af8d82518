package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/admin/admintest"
	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/cli"
	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/event"
)

// TestMain makes the test program a command "postern" for the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(cli.Run(ctx, tree(), os.Args[1:]))
	}})
}

// tree is the command line of the tests: the small table, and one command of
// the kind that node and lab bring.
func tree() *cobra.Command {
	extra := &cobra.Command{
		Use: "lab", Short: "a lab", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := c.Flags().GetString("dir")
			if err != nil {
				return err
			}
			if dir == "bad" {
				return errors.New("no such lab")
			}
			c.Println("lab in " + dir)
			return nil
		},
	}
	extra.Flags().String("dir", "here", "folder of the lab")
	return cli.New(cli.Options{Commands: admintest.Commands(nil), Extra: []*cobra.Command{extra}, Version: "1.2.3"})
}

// TestScripts runs testdata/script/*.txt, each against a server of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("POSTERN_UPDATE") != "",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
		Setup: func(e *testscript.Env) error { return serve(e) },
	})
}

// exits runs a command and compares its exit code: exits 3 postern ...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var ee interface{ ExitCode() int }
	switch {
	case errors.As(err, &ee):
		code = ee.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got := string(rune('0' + code)); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// serve starts a server for one script.
func serve(e *testscript.Env) error {
	dir, err := os.MkdirTemp("", "cli") // short, for the socket's path
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	s, err := api.New(api.Config{Server: "MBX1", Version: "test", Socket: sock.Path(dir)}, api.Deps{
		Commands: admintest.Commands(&admintest.Library{}), Auth: admintest.NewAccounts(), State: admintest.NewState(), Log: log, Events: event.NewLog(log),
		Listener: l, TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		OrganizationOf: admintest.OrganizationOf,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	e.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err) // there is no test to report to any more
		}
		_ = os.RemoveAll(dir)
	})
	if err := await(sock.Path(dir)); err != nil {
		return err
	}
	url := "https://" + l.Addr().String()
	ca := filepath.Join(e.WorkDir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	e.Setenv("POSTERN_DIR", dir)
	e.Setenv("URL", url)
	e.Setenv("CA", ca)
	e.Setenv("TZ", "UTC")
	return writeLab(e.WorkDir, url, ca, l.Addr().String())
}

// writeLab writes lab/lab.json, in which the first server is dead.
func writeLab(work, url, ca, addr string) error {
	lab := map[string]any{
		"admin": map[string]string{"user": "root", "password": "open sesame", "url": "https://127.0.0.1:1"},
		"ca":    ca, "servers": []map[string]string{{"https": "127.0.0.1:1"}, {"https": addr}},
	}
	b, err := json.Marshal(lab)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(work, "lab"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(work, "lab", "lab.json"), b, 0o600)
}

func await(socket string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		if c, err := sock.Dial(context.Background(), socket); err == nil {
			return c.Close()
		}
		<-tick.C
	}
	return errors.New("the server did not start")
}
