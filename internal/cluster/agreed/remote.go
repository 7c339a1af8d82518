package agreed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/postern-mail/postern/internal/base/kind"
)

// dialOptions make a client find its way back quickly after a failover.
func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
		MinConnectTimeout: 2 * time.Second,
	})}
}

// Connect makes a client of the voting members, reached by dial, which takes
// an endpoint (host:port) as it stands in the list.
func Connect(endpoints []string, dial func(ctx context.Context, endpoint string) (net.Conn, error), log *slog.Logger) (*clientv3.Client, error) {
	if len(endpoints) == 0 {
		return nil, kind.Errorf(kind.Busy, "connect to the agreed state: no voting server is known")
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialTimeout:          2 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		Logger:               zapLogger(log, newFatal()),
		DialOptions: append(dialOptions(),
			grpc.WithContextDialer(func(ctx context.Context, ep string) (net.Conn, error) { return dial(ctx, ep) })),
	})
}

// External says how to reach an etcd that the user runs.
type External struct {
	Endpoints         []string
	CAFile            string
	CertFile, KeyFile string
	User, Password    string
}

// ConnectExternal makes a client of an etcd that the user runs.
func ConnectExternal(x External, log *slog.Logger) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		Endpoints: x.Endpoints, Username: x.User, Password: x.Password,
		DialTimeout: 2 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		Logger: zapLogger(log, newFatal()), DialOptions: dialOptions(),
	}
	if x.CAFile != "" || x.CertFile != "" {
		t := &tls.Config{MinVersion: tls.VersionTLS12}
		if x.CAFile != "" {
			pem, err := os.ReadFile(x.CAFile)
			if err != nil {
				return nil, err
			}
			if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(pem) {
				return nil, kind.Errorf(kind.Invalid, "etcd ca file %s: no certificate in it", x.CAFile)
			}
		}
		if x.CertFile != "" {
			t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				c, err := tls.LoadX509KeyPair(x.CertFile, x.KeyFile)
				return &c, err
			}
		}
		cfg.TLS = t
	}
	return clientv3.New(cfg)
}
