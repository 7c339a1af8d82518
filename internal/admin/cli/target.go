package cli

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/admin/sock"
)

const defaultDir = "/var/lib/postern"

// maxSecret bounds a secret read from a file, in bytes.
const maxSecret = 4096

// client finds the servers that flags and variables name.
func (p *program) client(ctx context.Context) (*client, error) {
	c := &client{}
	if err := p.find(c); err != nil {
		return nil, err
	}
	if ca := cmp.Or(p.ca, p.Getenv("POSTERN_CA")); ca != "" {
		roots, err := readRoots(ca)
		if err != nil {
			return nil, err
		}
		c.roots = roots
	}
	c.user = cmp.Or(p.user, p.Getenv("POSTERN_USER"), c.user)
	password, err := p.adminPassword()
	if err != nil {
		return nil, err
	}
	c.password = cmp.Or(password, c.password)
	if c.user != "" && c.password == "" && c.endpoints[0].socket == "" {
		if c.password, err = p.prompt(ctx, "password of "+c.user+": "); err != nil {
			return nil, err
		}
	}
	c.init()
	return c, nil
}

// find fills in where the servers are; a flag counts more than any variable.
func (p *program) find(c *client) error {
	env := func(name string) string { return p.Getenv("POSTERN_" + name) }
	switch {
	case p.socket != "":
		return c.useSocket(p.socket)
	case len(p.urls) > 0:
		return c.useURLs(p.urls)
	case p.lab != "":
		return c.useLab(p.lab)
	case p.dir != "":
		return c.useSocket(sock.Path(p.dir))
	case env("SOCKET") != "":
		return c.useSocket(env("SOCKET"))
	case env("URL") != "":
		return c.useURLs(strings.Fields(env("URL")))
	case env("LAB") != "":
		return c.useLab(env("LAB"))
	}
	return c.useSocket(sock.Path(cmp.Or(env("DIR"), defaultDir)))
}

func (c *client) useSocket(path string) error {
	c.endpoints = []endpoint{{socket: path}}
	c.localHint = "is a server running there? Name its data folder with --dir, a lab with --lab, or another machine with --url"
	return nil
}

func (c *client) useURLs(urls []string) error {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" {
			return usage("as in https://mbx1.example.com:8443", "--url %q: want an https address", text)
		}
		c.endpoints = append(c.endpoints, endpoint{addr: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), host: u.Hostname()})
	}
	return nil
}

// labFile is what the command line needs of DIR/lab.json.
type labFile struct {
	Admin struct {
		User     string `json:"user"`
		Password string `json:"password"`
		URL      string `json:"url"`
	} `json:"admin"`
	CA      string `json:"ca"`
	Servers []struct {
		Dir   string `json:"dir"`
		HTTPS string `json:"https"`
	} `json:"servers"`
}

// useLab takes servers and administrator from a lab. Any of its servers may
// have been killed, so all are tried, at last over their sockets.
func (c *client) useLab(dir string) error {
	name := filepath.Join(dir, "lab.json")
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return usage("start one with postern lab --dir "+dir, "%s: there is no lab", dir)
	}
	if err != nil {
		return err
	}
	var lab labFile
	if err := json.Unmarshal(b, &lab); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if lab.Admin.URL != "" {
		if err := c.useURLs([]string{lab.Admin.URL}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, s := range lab.Servers {
		host, _, err := net.SplitHostPort(s.HTTPS)
		if err == nil && (len(c.endpoints) == 0 || c.endpoints[0].addr != s.HTTPS) {
			c.endpoints = append(c.endpoints, endpoint{addr: s.HTTPS, host: host})
		}
	}
	for _, s := range lab.Servers {
		if s.Dir != "" {
			c.endpoints = append(c.endpoints, endpoint{socket: sock.Path(s.Dir)})
		}
	}
	if len(c.endpoints) == 0 {
		return fmt.Errorf("%s: names no servers", name)
	}
	c.user, c.password = lab.Admin.User, lab.Admin.Password
	if lab.CA != "" {
		if c.roots, err = readRoots(lab.CA); err != nil {
			return err
		}
	}
	return nil
}

func readRoots(name string) (*x509.CertPool, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate in it", name)
	}
	return pool, nil
}

// adminPassword is the password given for logging in, empty for none.
func (p *program) adminPassword() (string, error) {
	if p.password != "" {
		return p.password, nil
	}
	if name := cmp.Or(p.passwordIn, p.Getenv("POSTERN_PASSWORD_FILE")); name != "" {
		return p.readSecret(name)
	}
	return p.Getenv("POSTERN_PASSWORD"), nil
}

// readSecret reads the first line of a file, of standard input for "-".
func (p *program) readSecret(name string) (string, error) {
	var r io.Reader = p.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read secret from %s: %w", name, err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" || len(line) > maxSecret {
		return "", usage("", "%s: want a secret on its first line", name)
	}
	return line, nil
}
