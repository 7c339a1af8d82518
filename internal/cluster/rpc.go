package cluster

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/port"
	"github.com/postern-mail/postern/internal/org"
)

// maxMessage is the largest RPC message, enough for a mail of the largest
// size that anybody accepts.
const maxMessage = 128 << 20

// cborCodec makes gRPC carry our own encoding: no generated code.
type cborCodec struct{}

func (cborCodec) Marshal(v any) ([]byte, error)      { return codec.Marshal(v) }
func (cborCodec) Unmarshal(data []byte, v any) error { return codec.Unmarshal(data, v) }
func (cborCodec) Name() string                       { return "cbor" }

// RegisterService adds an RPC service; before Run only. Handlers find the
// caller with PeerName. Errors with a kind arrive at the caller with that kind.
func (c *Cluster) RegisterService(d *grpc.ServiceDesc, impl any) { c.grpc.RegisterService(d, impl) }

// Conn returns the connection for RPCs to a member (also to this one). It is
// shared and lives as long as the cluster; it connects when it is used and
// finds the server's address anew at each connection.
func (c *Cluster) Conn(s org.ServerName) (*grpc.ClientConn, error) {
	c.connMu.Lock()
	defer c.connMu.Unlock()
	if cc := c.conns[s]; cc != nil {
		return cc, nil
	}
	if c.ended {
		return nil, kind.Errorf(kind.Busy, "connect to %s: this server is stopping", s)
	}
	if _, ok := c.View().Server(s); !ok {
		return nil, kind.Errorf(kind.NotFound, "connect to %s: not a member of the group", s)
	}
	cc, err := grpc.NewClient("passthrough:///"+string(s),
		grpc.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
			return c.Dial(ctx, org.ServerName(name), protoGRPC)
		}),
		// The dialer's connection is TLS already, both ends verified.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(cborCodec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithChainUnaryInterceptor(unaryKinds),
		grpc.WithChainStreamInterceptor(streamKinds),
	)
	if err != nil {
		return nil, err
	}
	c.conns[s] = cc
	return cc, nil
}

// dropConns closes the RPC connections that keep does not want.
func (c *Cluster) dropConns(keep func(org.ServerName) bool) {
	c.connMu.Lock()
	defer c.connMu.Unlock()
	for s, cc := range c.conns {
		if !keep(s) {
			cc.Close()
			delete(c.conns, s)
		}
	}
}

func newRPCServer() *grpc.Server {
	return grpc.NewServer(
		grpc.ForceServerCodec(cborCodec{}), grpc.Creds(portCredentials{}),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(1<<14),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(4<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			return resp, toStatus(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return toStatus(h(srv, ss))
		}),
	)
}

// portCredentials passes on who the cluster port has found the peer to be.
type portCredentials struct{}

type peerInfo struct {
	credentials.CommonAuthInfo
	name org.ServerName
}

func (peerInfo) AuthType() string { return "postern" }

func (portCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := c.(*port.Conn)
	if !ok || pc.Peer() == "" {
		return nil, nil, kind.Errorf(kind.Denied, "rpc: not a connection of the cluster port")
	}
	return c, peerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, pc.Peer()}, nil
}

func (portCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}
func (portCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (p portCredentials) Clone() credentials.TransportCredentials { return p }
func (portCredentials) OverrideServerName(string) error           { return nil }

// PeerName is the member that sent an RPC, in the context of its handler;
// empty outside of one.
func PeerName(ctx context.Context) org.ServerName {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, _ := p.AuthInfo.(peerInfo)
	return info.name
}

var kindCodes = map[kind.Kind]codes.Code{
	kind.Internal: codes.Internal, kind.NotFound: codes.NotFound, kind.Exists: codes.AlreadyExists,
	kind.Denied: codes.PermissionDenied, kind.Invalid: codes.InvalidArgument, kind.Busy: codes.Unavailable,
	kind.Elsewhere: codes.FailedPrecondition, kind.Corrupt: codes.DataLoss, kind.Full: codes.ResourceExhausted,
	kind.Conflict: codes.Aborted,
}

// toStatus turns an error into gRPC's, unless it is one already.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(kindCodes[kind.Of(err)], err.Error())
}

// remoteError is what a peer answered; its text stands alone, and gRPC still
// finds its status in it.
type remoteError struct{ s *status.Status }

func (e remoteError) Error() string              { return e.s.Message() }
func (e remoteError) GRPCStatus() *status.Status { return e.s }

// fromStatus gives a gRPC error its kind back.
func fromStatus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	k := kind.Internal
	switch s.Code() {
	case codes.DeadlineExceeded, codes.Canceled:
		k = kind.Busy
	case codes.Unauthenticated:
		k = kind.Denied
	default:
		for of, code := range kindCodes {
			if code == s.Code() {
				k = of
			}
		}
	}
	return &kind.Error{Kind: k, Err: remoteError{s}}
}

func unaryKinds(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return fromStatus(invoke(ctx, method, req, reply, cc, opts...))
}

func streamKinds(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, d, cc, method, opts...)
	if err != nil {
		return nil, fromStatus(err)
	}
	return kindStream{s}, nil
}

type kindStream struct{ grpc.ClientStream }

func (s kindStream) RecvMsg(m any) error { return fromStatus(s.ClientStream.RecvMsg(m)) }
func (s kindStream) SendMsg(m any) error { return fromStatus(s.ClientStream.SendMsg(m)) }
