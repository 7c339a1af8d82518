package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/admin/metrics"
	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/logging"
)

// writeTime bounds one write of an answer to a client that does not read.
const writeTime = 30 * time.Second

// handler builds the paths of one listener; the socket has more of them.
func (s *Server) handler(local bool) http.Handler {
	mux := http.NewServeMux()
	for _, c := range s.table {
		r := &route{s: s, c: c}
		r.p, _ = command.ParamsOf(c.In) // New has checked the table
		mux.Handle(wire.Path(c), s.only(wire.Method(c), r))
	}
	mux.Handle(wire.Base+"/session/login", s.only(http.MethodPost, http.HandlerFunc(s.login)))
	mux.Handle(wire.Base+"/session/logout", s.only(http.MethodPost, http.HandlerFunc(s.logout)))
	mux.Handle(wire.Base+"/openapi.json", s.only(http.MethodGet, http.HandlerFunc(s.description)))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, kind.Errorf(kind.NotFound, "there is nothing at this path"))
	})
	running := s.tcp
	if local {
		running = s.local
		s.localPaths(mux)
	}
	// A browser that knows a password sends it along with requests that other
	// sites make; this refuses them.
	sites := http.NewCrossOriginProtection()
	sites.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, kind.Errorf(kind.Denied, "requests from other sites are refused"))
	}))
	return s.outer(running, sites.Handler(mux))
}

// localPaths are for the person at the machine only: profiles show memory.
func (s *Server) localPaths(mux *http.ServeMux) {
	trusted := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := s.identify(r); err != nil {
				s.fail(w, r, err)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	mux.Handle("GET /debug/pprof/", trusted(http.HandlerFunc(pprof.Index)))
	mux.Handle("GET /debug/pprof/cmdline", trusted(http.HandlerFunc(pprof.Cmdline)))
	mux.Handle("GET /debug/pprof/profile", trusted(http.HandlerFunc(pprof.Profile)))
	mux.Handle("GET /debug/pprof/symbol", trusted(http.HandlerFunc(pprof.Symbol)))
	mux.Handle("GET /debug/pprof/trace", trusted(http.HandlerFunc(pprof.Trace)))
	for pattern, h := range s.deps.Local {
		mux.Handle(pattern, trusted(h))
	}
	metrics.Health(mux, s.deps.Ready)
}

// outer gives each request its trace id, keeps the limit of requests at one
// time, and survives a mistake in any handler.
func (s *Server) outer(running slots, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := traceOf(r)
		r = r.WithContext(logging.WithTrace(r.Context(), id))
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Trace-Id", id)
		if !running.take() {
			s.met.limited.Inc()
			s.fail(w, r, kind.Errorf(kind.Busy, "too many requests at one time"))
			return
		}
		defer running.give()
		s.met.running.Inc()
		start := time.Now()
		defer func() {
			s.met.running.Dec()
			s.met.seconds.Observe(time.Since(start).Seconds())
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				s.broke(r.Context(), "http", v)
				s.fail(w, r, errors.New("handler broke"))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// broke reports a mistake of the program.
func (s *Server) broke(ctx context.Context, what string, v any) {
	s.log.ErrorContext(ctx, "command broke", "command", what, "panic", v, "stack", string(debug.Stack()))
	s.deps.Events.Emit(EventPanic, "%s broke: trace %s", what, logging.TraceID(ctx))
}

// traceOf takes over the trace id of W3C Trace Context (traceparent), or makes one.
func traceOf(r *http.Request) string {
	if parts := strings.Split(r.Header.Get("Traceparent"), "-"); len(parts) == 4 && logging.ValidTraceID(parts[1]) {
		return parts[1]
	}
	return logging.NewTraceID()
}

// only answers 405 to other methods.
func (s *Server) only(method string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
			w.Header().Set("Allow", method)
			s.fail(w, r, wire.New(http.StatusMethodNotAllowed, kind.Invalid.String(), "this path takes "+method, ""))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fail answers with a problem.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.write(w, s.problem(w.Header(), r.Context(), err))
}

// problem describes an error and sets the headers that belong to it.
func (s *Server) problem(h http.Header, ctx context.Context, err error) *wire.Problem {
	p := wire.ProblemOf(err, logging.TraceID(ctx))
	var later *retry
	switch {
	case errors.As(err, &later):
		h.Set("Retry-After", strconv.Itoa(max(1, int(later.after.Seconds()))))
		s.met.limited.Inc()
	case p.Status == http.StatusServiceUnavailable:
		h.Set("Retry-After", "2")
	case p.Status == http.StatusUnauthorized:
		h.Add("WWW-Authenticate", `Bearer realm="postern"`)
		h.Add("WWW-Authenticate", `Basic realm="postern", charset="UTF-8"`)
	case p.Status == http.StatusInternalServerError:
		s.log.ErrorContext(ctx, "admin request", "error", err)
	}
	return p
}

func (s *Server) write(w http.ResponseWriter, p *wire.Problem) {
	w.Header().Set("Content-Type", wire.ProblemJSON)
	s.send(w, p.Status, p)
}

// send writes v as JSON.
func (s *Server) send(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.log.Error("admin answer cannot be written as JSON", "type", v, "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"title":"internal","status":500,"kind":"internal"}`)
		w.Header().Set("Content-Type", wire.ProblemJSON)
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", wire.JSON)
	}
	patience(w)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that went away needs no answer
}

// patience gives the client writeTime to take what comes next.
func patience(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime)) // tests' recorders have none
}

// body reads a JSON body up to the limit. Anything but application/json is
// refused: other types can be sent by a form on any web site.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if r.ContentLength != 0 && !strings.EqualFold(strings.TrimSpace(ct), wire.JSON) {
		return nil, wire.New(http.StatusUnsupportedMediaType, kind.Invalid.String(), "want Content-Type application/json", "")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, wire.New(http.StatusRequestEntityTooLarge, kind.Invalid.String(), "the body is too large", "at most "+strconv.FormatInt(s.cfg.MaxBody, 10)+" bytes")
	}
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "read body: %w", err)
	}
	return b, nil
}

// description serves the OpenAPI document. It holds nothing but the program's
// interface, so it needs no login.
func (s *Server) description(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json;version=3.1")
	patience(w)
	_, _ = w.Write(s.openapi) // a client that went away needs no answer
}

// login makes a token for a name and a password.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	ses, err := func() (wire.Session, error) {
		login, password, ok := r.BasicAuth()
		if !ok {
			b, err := s.body(w, r)
			if err != nil {
				return wire.Session{}, err
			}
			var in wire.Login
			if err := json.Unmarshal(b, &in); err != nil {
				return wire.Session{}, kind.Errorf(kind.Invalid, "body: want login and password")
			}
			login, password = in.Login, in.Password
		}
		acc, err := s.authenticate(r.Context(), login, password, remoteOf(r))
		if err != nil {
			return wire.Session{}, err
		}
		return s.sessions.create(r.Context(), acc)
	}()
	s.met.count("session login", statusOf(err))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.send(w, http.StatusOK, ses)
}

// logout ends the token that the request carries.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	token, ok := bearer(r)
	if !ok {
		s.fail(w, r, unauthenticated("there is no token to end"))
		return
	}
	if err := s.sessions.end(r.Context(), token); err != nil {
		s.fail(w, r, err)
		return
	}
	s.send(w, http.StatusOK, struct{}{})
}

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return wire.ProblemOf(err, "").Status
}
