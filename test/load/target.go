package load

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Server is a mail server that clients may use.
type Server struct {
	Name string
	SMTP string // host:port, plain
	IMAP string // host:port, TLS from the start
	// Submission is host:port with STARTTLS, for people with a mailbox.
	Submission string
	down       atomic.Bool
}

// User is somebody with a mailbox.
type User struct{ Address, Password, Database string }

// Target is what the load goes to.
type Target struct {
	Servers []*Server
	Users   []User
	TLS     *tls.Config
	// Follow has clients try the next server at once where one takes no
	// connection, as those do that know several addresses of one name. Only when
	// none takes it that is a trouble.
	Follow bool
}

// labFile is the part of DIR/lab.json that clients need.
type labFile struct {
	CA    string `json:"ca"`
	Users []User `json:"users"`

	Servers []struct {
		Name  string `json:"name"`
		SMTP  string `json:"smtp"`
		IMAPS string `json:"imaps"`

		Submission string `json:"submission"`
	} `json:"servers"`
}

// LabTarget reads where a lab is from its lab.json.
func LabTarget(path string) (*Target, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	var f labFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("target %s: %w", path, err)
	}
	conf, err := Trust(f.CA)
	if err != nil {
		return nil, err
	}
	t := &Target{Users: f.Users, TLS: conf}
	for _, s := range f.Servers {
		if s.SMTP != "" {
			t.Servers = append(t.Servers, &Server{Name: s.Name, SMTP: s.SMTP, IMAP: s.IMAPS, Submission: s.Submission})
		}
	}
	return t, nil
}

// Trust accepts every certificate that the authority in a file signed, for any
// name: all servers of a lab are at one address.
func Trust(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("target %s: no certificate in it", file)
	}
	return &tls.Config{
		InsecureSkipVerify: true, // replaced by VerifyConnection
		ClientSessionCache: tls.NewLRUClientSessionCache(256),
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			inter := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				inter.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: inter})
			return err
		},
	}, nil
}

// SetDown says whether clients should look for another server when they
// connect. Clients that are connected stay.
func (t *Target) SetDown(name string, down bool) {
	for _, s := range t.Servers {
		if s.Name == name {
			s.down.Store(down)
		}
	}
}

// pick chooses a server: the n-th if it is up, else one that is.
func (t *Target) pick(n int) *Server {
	for i := range t.Servers {
		if s := t.Servers[(n+i)%len(t.Servers)]; !s.down.Load() {
			return s
		}
	}
	return t.Servers[rand.IntN(len(t.Servers))]
}

// reach tries servers with f, the n-th that is up first, and the others where
// clients follow. It returns the server that was tried last.
func (t *Target) reach(n int, f func(*Server) error) (*Server, error) {
	srv := t.pick(n)
	err := f(srv)
	if err == nil || !t.Follow {
		return srv, err
	}
	for i := range t.Servers {
		next := t.Servers[(n+i)%len(t.Servers)]
		if next == srv || next.down.Load() {
			continue
		}
		if err2 := f(next); err2 == nil {
			return next, nil
		}
	}
	return srv, err
}

func dial(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, 5*time.Second) }
