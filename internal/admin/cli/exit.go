package cli

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Exit codes.
const (
	ExitOK       = 0
	ExitError    = 1 // anything else
	ExitUsage    = 2 // wrong flags or values
	ExitNotFound = 3
	ExitDenied   = 4
	ExitBusy     = 5 // temporary, or no server reached: try again
	ExitConflict = 6 // exists already, or somebody else changed it
)

// usageError is a mistake of the person at the keyboard.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(hint, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), hint}
}

// Code tells the exit code of an error. An error may bring its own by a method
// ExitCode() int.
func Code(err error) int {
	var own interface{ ExitCode() int }
	var use *usageError
	var p *wire.Problem
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &own):
		return own.ExitCode()
	case errors.As(err, &use), strings.HasPrefix(err.Error(), "unknown command"): // cobra's own
		return ExitUsage
	case errors.As(err, &p):
		return codeOfStatus(p)
	}
	return codeOfKind(kind.Of(err))
}

func codeOfStatus(p *wire.Problem) int {
	switch p.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ExitDenied
	case http.StatusNotFound:
		return ExitNotFound
	case http.StatusConflict:
		return ExitConflict
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return ExitBusy
	case http.StatusUnprocessableEntity, http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return ExitUsage
	}
	return ExitError
}

func codeOfKind(k kind.Kind) int {
	switch k {
	case kind.NotFound:
		return ExitNotFound
	case kind.Denied:
		return ExitDenied
	case kind.Busy, kind.Elsewhere:
		return ExitBusy
	case kind.Exists, kind.Conflict:
		return ExitConflict
	case kind.Invalid:
		return ExitUsage
	}
	return ExitError
}

// explain is what a person reads about an error: what, and what to do next.
func explain(err error) string {
	var use *usageError
	var p *wire.Problem
	switch {
	case errors.As(err, &p):
		return withHint(p.Error(), p.Hint)
	case errors.As(err, &use):
		return withHint(err.Error(), use.hint)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if k, ok := e.(*kind.Error); ok && k.Hint != "" {
			return withHint(strings.Replace(err.Error(), " (hint: "+k.Hint+")", "", 1), k.Hint)
		}
	}
	return err.Error()
}

func withHint(s, hint string) string {
	if hint == "" {
		return s
	}
	return s + "\nhint: " + hint
}
