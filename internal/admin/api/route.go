package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/logging"
)

// route serves one command.
type route struct {
	s *Server
	c command.Command
	p *command.Params
}

func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller, in, err := rt.admit(w, r)
	if err != nil {
		rt.s.met.count(rt.c.Name(), statusOf(err))
		rt.s.fail(w, r, err)
		return
	}
	ctx, cancel := rt.context(command.WithCaller(r.Context(), caller))
	defer cancel()
	if rt.c.Stream {
		rt.stream(ctx, cancel, w, r, caller, in)
		return
	}
	out, err := rt.run(ctx, caller, in)
	rt.s.met.count(rt.c.Name(), statusOf(err))
	if err != nil {
		rt.s.fail(w, r, err)
		return
	}
	rt.s.send(w, http.StatusOK, plain(out))
}

// admit finds out who calls, whether they may, and with what parameters.
func (rt *route) admit(w http.ResponseWriter, r *http.Request) (command.Caller, any, error) {
	s := rt.s
	caller, err := s.identify(r)
	if err != nil {
		return caller, nil, err
	}
	if caller.Remote != "local" {
		if ok, wait := s.calls.take(caller.Name, s.now()); !ok {
			return caller, nil, tooMany(wait)
		}
	}
	if err := Allowed(rt.c, rt.p, caller); err != nil {
		s.log.WarnContext(r.Context(), "admin command refused", "command", rt.c.Name(), "caller", caller.Name)
		return caller, nil, err
	}
	in, err := rt.params(w, r)
	if err != nil {
		return caller, nil, err
	}
	in, err = InScope(rt.c, rt.p, caller, in, s.deps.OrganizationOf)
	return caller, in, err
}

func (rt *route) params(w http.ResponseWriter, r *http.Request) (any, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "query: %w", err)
	}
	if !rt.c.Changes {
		return rt.p.FromValues(q)
	}
	if len(q) > 0 {
		return nil, kind.Errorf(kind.Invalid, "parameters of a change belong into the body")
	}
	b, err := rt.s.body(w, r)
	if err != nil {
		return nil, err
	}
	return rt.p.FromJSON(b)
}

// context says how long the command may run. A change goes on when its client
// goes away, so that a lost connection leaves nothing half done; a stream
// that nobody watches ends. All end with the server.
func (rt *route) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if rt.c.Stream {
		return context.WithTimeout(ctx, rt.s.cfg.StreamTimeout)
	}
	if !rt.c.Changes {
		return context.WithTimeout(ctx, rt.s.cfg.CommandTimeout)
	}
	alone, cancel := context.WithTimeout(context.WithoutCancel(ctx), rt.s.cfg.CommandTimeout)
	if end, ok := ctx.Value(endKey{}).(context.Context); ok {
		stop := context.AfterFunc(end, cancel)
		return alone, func() { stop(); cancel() }
	}
	return alone, cancel
}

// run runs the command, and writes a change into the audit log before and
// after.
func (rt *route) run(ctx context.Context, caller command.Caller, in any) (out any, err error) {
	if !rt.c.Changes {
		return rt.guarded(ctx, in)
	}
	rec, err := rt.s.audit.Begin(ctx, rt.c, caller, in)
	if err != nil {
		rt.s.deps.Events.Emit(EventAuditRefused, "%s by %s did not run: %v", rt.c.Name(), caller.Name, err)
		return nil, err
	}
	rt.s.log.InfoContext(ctx, "admin change", "command", rt.c.Name(), "caller", caller.Name, "audit", rec.ID)
	out, err = rt.guarded(ctx, in)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	rt.s.audit.End(after, rec, err)
	return out, err
}

// guarded turns a panic of the command into an error, so that its audit record
// gets an outcome.
func (rt *route) guarded(ctx context.Context, in any) (out any, err error) {
	defer func() {
		if v := recover(); v != nil {
			rt.s.broke(ctx, rt.c.Name(), v)
			out, err = nil, errors.New(rt.c.Name()+" broke")
		}
	}()
	return rt.c.Run(ctx, in)
}

// plain makes an empty list of a nil one: clients get [] and not null.
func plain(out any) any {
	if v := reflect.ValueOf(out); v.Kind() == reflect.Slice && v.IsNil() {
		return []struct{}{}
	}
	return out
}

// keepAlive is how often a stream without news writes an empty line, which
// also finds clients that are gone.
const keepAlive = 10 * time.Second

// stream runs a command that tells how far it is. Until the first line an
// error is still an HTTP status; afterwards it is the last line.
func (rt *route) stream(ctx context.Context, cancel func(), w http.ResponseWriter, r *http.Request, caller command.Caller, in any) {
	l := &lines{w: w, cancel: cancel}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(keepAlive)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				l.put(wire.Line{})
			case <-stop:
				return
			}
		}
	})
	out, err := rt.run(command.WithProgress(ctx, func(line string) { l.put(wire.Line{Progress: line}) }), caller, in)
	close(stop)
	wg.Wait()
	rt.s.met.count(rt.c.Name(), statusOf(err))
	var last wire.Line
	if err == nil {
		last.Result, err = json.Marshal(plain(out))
	}
	switch {
	case err != nil && !l.begun():
		rt.s.fail(w, r, err)
		return
	case err != nil:
		last = wire.Line{Error: rt.s.problem(http.Header{}, logging.WithTrace(ctx, caller.TraceID), err)}
	}
	l.put(last)
}

// lines writes the lines of a stream.
type lines struct {
	w      http.ResponseWriter
	cancel func()

	mu      sync.Mutex // guards writes
	started bool
	broken  bool
}

func (l *lines) begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.started
}

// put writes a line; the command ends when nobody takes it.
func (l *lines) put(line wire.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return
	}
	if !l.started {
		l.started = true
		l.w.Header().Set("Content-Type", wire.NDJSON)
		l.w.WriteHeader(http.StatusOK)
	}
	patience(l.w)
	b, err := json.Marshal(line)
	if err == nil {
		_, err = l.w.Write(append(b, '\n'))
	}
	if err == nil {
		err = http.NewResponseController(l.w).Flush()
	}
	if err != nil {
		l.broken = true
		l.cancel()
	}
}
