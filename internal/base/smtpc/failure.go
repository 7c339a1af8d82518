package smtpc

import (
	"fmt"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Stage is how far a session or a message had come.
type Stage string

// The stages, in order.
const (
	StageConnect  Stage = "connect"
	StageGreeting Stage = "greeting"
	StageHello    Stage = "hello"
	StageSTARTTLS Stage = "starttls"
	StageTLS      Stage = "tls" // the handshake
	StageAuth     Stage = "auth"
	StageReset    Stage = "reset"
	StageCheck    Stage = "check" // what was given and what the peer can do; nothing was said
	StageMail     Stage = "mail"
	StageRcpt     Stage = "rcpt"
	StageData     Stage = "data"
	StageBody     Stage = "body"
	StageHook     Stage = "hook" // beforeDot
	StageDot      Stage = "dot"
)

// Failure is every error of this package: where it happened, what was
// answered and, where the session broke, why. Its kind is Busy for 4xx and for
// everything between the hosts, Denied for a refused log-in and Invalid for
// other 5xx, but a refused STARTTLS is Busy.
type Failure struct {
	Stage Stage
	Peer  string // Options.Address
	Reply Reply  // Code 0: no answer, look at Err
	Err   error
}

// AboutHost tells whether the peer failed before it knew anything of a
// message: another host of the domain may take it, and a 5xx is no reason to
// return mail.
func (f *Failure) AboutHost() bool {
	switch f.Stage {
	case StageCheck, StageMail, StageRcpt, StageData, StageBody, StageHook, StageDot:
		return false
	}
	return true
}

// Error says stage, peer and cause.
func (f *Failure) Error() string {
	if f.Reply.Code != 0 {
		return fmt.Sprintf("smtp to %s: %s: %s", f.Peer, f.Stage, f.Reply)
	}
	return fmt.Sprintf("smtp to %s: %s: %v", f.Peer, f.Stage, f.Err)
}

// Unwrap gives the cause, which carries the kind.
func (f *Failure) Unwrap() error { return f.Err }

func broken(st Stage, peer string, err error) *Failure {
	return &Failure{Stage: st, Peer: peer, Err: &kind.Error{Kind: kind.Busy, Err: err}}
}

func answered(st Stage, peer string, r Reply) *Failure {
	k := kind.Busy
	switch {
	case !r.Permanent() || st == StageSTARTTLS: // TLS may come back
	case st == StageAuth:
		k = kind.Denied
	default:
		k = kind.Invalid
	}
	return &Failure{Stage: st, Peer: peer, Reply: r, Err: kind.Errorf(k, "%s", r)}
}
