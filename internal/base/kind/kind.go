// Package kind classifies errors. Kinds are few and stable and cross the wire
// between servers; the doors turn them into SMTP, IMAP and HTTP codes, and no
// room below a door knows those codes.
package kind

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what a caller can do about an error.
type Kind uint8

// The kinds.
const (
	Internal  Kind = iota // a bug or an unknown failure
	NotFound              // the thing does not exist
	Exists                // it exists already
	Denied                // the caller may not
	Invalid               // the request can never succeed
	Busy                  // try again later
	Elsewhere             // another server has it; look again where
	Corrupt               // stored data is damaged
	Full                  // a quota or a disk is full
	Conflict              // a compare and swap lost
)

var names = [...]string{"internal", "not found", "exists", "denied", "invalid", "busy", "elsewhere", "corrupt", "full", "conflict"}

func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Error is an error with a kind and, for people, a hint with the next step.
type Error struct {
	Kind Kind
	Text string
	Hint string
	Err  error
}

func (e *Error) Error() string {
	s := e.Text
	if e.Err != nil {
		if s != "" {
			s += ": "
		}
		s += e.Err.Error()
	}
	if e.Hint != "" {
		s += " (hint: " + e.Hint + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind; %w wraps a cause as in fmt.Errorf.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// WithHint adds the next step for the person who reads err.
func WithHint(err error, hint string) error {
	return &Error{Kind: Of(err), Err: err, Hint: hint}
}

// Of tells the kind of err. A context that ended is Busy: the work may be tried again.
func Of(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Busy
	}
	return Internal
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && Of(err) == k }
