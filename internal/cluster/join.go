package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/netx"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/joining"
	"github.com/postern-mail/postern/internal/org"
)

// JoinOptions say who wants to be a member.
type JoinOptions struct {
	Dir     string
	Token   string
	Name    org.ServerName
	Site    org.SiteName
	Addr    string // host:port at which the others will reach it
	Version string
	Volumes []org.VolumeName
	Witness bool // votes and holds no mailboxes
	Replace bool // takes the place of a dead server of this name
	// Alternate is a witness that votes only while no other witness does.
	Alternate bool
}

// joinTimeout bounds the talk with one member.
const joinTimeout = 20 * time.Second

// Join asks a member of the group in the token to take this server in, and
// makes its data folder. Open and Run follow. Errors are Denied (token used,
// expired or for another server; not the group of the token), Exists (the name
// is taken), Busy (no member answers, or no quorum).
func Join(ctx context.Context, o JoinOptions) error {
	if err := checkServer(o.Name, o.Site, o.Addr); err != nil {
		return err
	}
	token, err := joining.ParseToken(o.Token)
	if err != nil {
		return err
	}
	if o.Replace {
		if err := leaveGivenUp(o.Dir); err != nil {
			return err
		}
	}
	lock, err := newFolder(o.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	key, csr, err := ca.Request()
	if err != nil {
		return err
	}
	req := joining.Request{
		Version: joining.Version, Secret: token.Secret, Name: o.Name, Site: o.Site, Addr: o.Addr,
		Witness: o.Witness, Volumes: o.Volumes, Program: o.Version, CSR: csr, Replace: o.Replace, Alternate: o.Alternate,
	}
	var last error
	for _, addr := range token.Addrs {
		answer, authority, err := ask(ctx, addr, token, req)
		if err == nil {
			return welcome(o, answer, authority, key)
		}
		last = err
		if k := kind.Of(err); k != kind.Busy || ctx.Err() != nil {
			break // the group has answered; another member would say the same
		}
	}
	return last
}

// leaveGivenUp puts aside what a server was that the group gave up, so that it
// can join anew in the same folder. Any other folder stays as it is.
func leaveGivenUp(dir string) error {
	if !fileExists(filepath.Join(dir, givenUpFile)) {
		return nil
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	old := filepath.Join(dir, "given-up.old")
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	// serverFile goes first: without it the folder is no server's.
	for _, name := range []string{serverFile, etcdDir, groupKeyFile, bundleFile, caFile, viewFile, firstFile, forceFile, givenUpFile} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(old, name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return syncDir(dir)
}

// ask sends the request to one member, after its certificate was found to be
// of the authority that the token names.
func ask(ctx context.Context, addr string, token joining.Token, req joining.Request) (a joining.Answer, authority *x509.Certificate, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	raw, err := netx.Dialer{Source: netx.SourceOf(req.Addr), Timeout: 3 * time.Second}.DialContext(ctx, "tcp", addr)
	if err != nil {
		return a, nil, &kind.Error{Kind: kind.Busy, Text: "join at " + addr, Err: err}
	}
	defer raw.Close()
	t := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{protoJoin},
		// Pinned below: the joiner knows nothing but the fingerprint.
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) (err error) {
			authority, err = pinned(st, token)
			return err
		},
	})
	if err := t.HandshakeContext(ctx); err != nil {
		k := kind.Busy
		if kind.Is(err, kind.Denied) {
			k = kind.Denied
		}
		return a, nil, &kind.Error{Kind: k, Text: "join at " + addr, Err: err}
	}
	deadline, _ := ctx.Deadline()
	t.SetDeadline(deadline)
	if err := joining.Write(t, req); err != nil {
		return a, nil, &kind.Error{Kind: kind.Busy, Text: "join at " + addr, Err: err}
	}
	if a, err = joining.ReadAnswer(t); err != nil {
		return a, nil, &kind.Error{Kind: kind.Busy, Text: "join at " + addr, Err: err,
			Hint: "if the token is refused from now on, the server may be a member already: join with --replace and a new token"}
	}
	if a.Error != "" {
		return a, nil, &kind.Error{Kind: a.Kind, Text: "join at " + addr + ": " + a.Error, Hint: a.Hint}
	}
	return a, authority, nil
}

// pinned finds the token's authority in what the member shows, and checks
// that its certificate is of it.
func pinned(st tls.ConnectionState, token joining.Token) (*x509.Certificate, error) {
	for _, cert := range st.PeerCertificates {
		if cert.IsCA && ca.Fingerprint(cert) == token.Fingerprint {
			_, err := ca.Verify(cert, st.PeerCertificates, x509.ExtKeyUsageServerAuth)
			return cert, err
		}
	}
	return nil, kind.Errorf(kind.Denied, "who answers is not of the group that the token is for")
}

// welcome makes the data folder from the group's answer.
func welcome(o JoinOptions, a joining.Answer, authority *x509.Certificate, key []byte) error {
	if a.Version != joining.Version || a.Group == "" || len(a.GroupKey) != ca.GroupKeySize {
		return kind.Errorf(kind.Invalid, "join: the answer is of version %d or not complete, this program speaks %d", a.Version, joining.Version)
	}
	bundle := ca.Bundle(a.Cert, authority, key)
	if _, _, err := ca.ParseBundle(bundle); err != nil {
		return err
	}
	return material{
		self:     self{Format: folderFormat, Group: a.Group, Name: o.Name, Identity: a.Identity, Addr: o.Addr, Witness: o.Witness},
		groupKey: a.GroupKey, bundle: bundle, ca: authority, view: a.View,
	}.write(o.Dir)
}
