package wire

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Base is the path below which everything is; its version changes when a
// client of the former one would break.
const Base = "/api/v1"

// Media types.
const (
	JSON        = "application/json"
	ProblemJSON = "application/problem+json"
	NDJSON      = "application/x-ndjson"
)

// Path is where a command is.
func Path(c command.Command) string { return Base + "/" + strings.ReplaceAll(c.Name(), " ", "/") }

// Method is GET for commands that only read, POST for the others.
func Method(c command.Command) string {
	if c.Changes {
		return http.MethodPost
	}
	return http.MethodGet
}

// Problem is an error on the wire (RFC 9457).
type Problem struct {
	Type    string            `json:"type"`
	Title   string            `json:"title"`
	Status  int               `json:"status"`
	Detail  string            `json:"detail,omitempty"`
	Kind    string            `json:"kind"`
	Hint    string            `json:"hint,omitempty"`
	TraceID string            `json:"trace_id,omitempty"`
	Errors  []command.Problem `json:"errors,omitempty"`
}

func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	return s
}

// Kind names that only the door uses, besides those of package kind.
const (
	KindUnauthenticated = "unauthenticated"
	KindTooMany         = "too many requests"
)

// status is the HTTP status of each kind.
var status = map[kind.Kind]int{
	kind.Internal:  http.StatusInternalServerError,
	kind.NotFound:  http.StatusNotFound,
	kind.Exists:    http.StatusConflict,
	kind.Denied:    http.StatusForbidden,
	kind.Invalid:   http.StatusUnprocessableEntity,
	kind.Busy:      http.StatusServiceUnavailable,
	kind.Elsewhere: http.StatusServiceUnavailable,
	kind.Corrupt:   http.StatusInternalServerError,
	kind.Full:      http.StatusInsufficientStorage,
	kind.Conflict:  http.StatusConflict,
}

// ProblemOf describes an error. Errors inside are not described: their text
// may hold what a caller should not see, so they carry only the trace id,
// under which the log has the rest.
func ProblemOf(err error, traceID string) *Problem {
	var ready *Problem
	if errors.As(err, &ready) {
		p := *ready
		p.TraceID = traceID
		return &p
	}
	k := kind.Of(err)
	p := &Problem{Type: "urn:postern:error:" + strings.ReplaceAll(k.String(), " ", "-"), Title: k.String(), Kind: k.String(), TraceID: traceID}
	p.Status = status[k]
	if p.Status == 0 {
		p.Status = http.StatusInternalServerError
	}
	p.Detail, p.Hint = split(err)
	if k == kind.Internal || k == kind.Corrupt {
		p.Detail, p.Hint = k.String()+" error", "look for "+traceID+" in the log of the server"
	}
	var params *command.ParamError
	if errors.As(err, &params) {
		p.Errors = params.Problems
	}
	return p
}

// New makes a problem of the door itself.
func New(status int, kind, detail, hint string) *Problem {
	return &Problem{
		Type:  "urn:postern:error:" + strings.ReplaceAll(kind, " ", "-"),
		Title: kind, Status: status, Kind: kind, Detail: detail, Hint: hint,
	}
}

// split takes the hint out of an error's text.
func split(err error) (detail, hint string) {
	detail = err.Error()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if k, ok := e.(*kind.Error); ok && k.Hint != "" {
			detail = strings.Replace(detail, " (hint: "+k.Hint+")", "", 1)
			if hint == "" {
				hint = k.Hint
			}
		}
	}
	return detail, hint
}

// Line is one line of a stream: progress, or, last, a result or an error. A
// line with nothing keeps the connection open.
type Line struct {
	Progress string          `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Problem        `json:"error,omitempty"`
}

// Session is the answer to a login.
type Session struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Login is the body of a login without HTTP Basic.
type Login struct {
	Login    string `json:"login"`
	Password string `json:"password"`
}
