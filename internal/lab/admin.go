package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/kind"
)

func socketPath(dir string) string { return sock.Path(dir) }

// adminClient speaks to the admin API of one server over its socket.
type adminClient struct{ http *http.Client }

func newAdminClient(dir string) adminClient {
	return adminClient{&http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, sock.Path(dir)) },
	}}}
}

func (a adminClient) close() { a.http.CloseIdleConnections() }

// change runs a command that changes something; out may be nil.
func (a adminClient) change(ctx context.Context, noun, verb string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s %s: %w", noun, verb, err)
	}
	return a.do(ctx, http.MethodPost, noun, verb, bytes.NewReader(body), out)
}

// read runs a command that only looks.
func (a adminClient) read(ctx context.Context, noun, verb string, out any) error {
	return a.do(ctx, http.MethodGet, noun, verb, nil, out)
}

func (a adminClient) do(ctx context.Context, method, noun, verb string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://postern"+wire.Base+"/"+noun+"/"+verb, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", noun, verb, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", wire.JSON)
	}
	res, err := a.http.Do(req)
	if err != nil {
		return kind.Errorf(kind.Busy, "%s %s: %w", noun, verb, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return kind.Errorf(kind.Busy, "%s %s: %w", noun, verb, err)
	}
	if res.StatusCode >= 300 {
		return failure(noun+" "+verb, res, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w", noun, verb, err)
	}
	return nil
}

// failure is the kind and text of what the API said.
func failure(what string, res *http.Response, answer []byte) error {
	var p wire.Problem
	if json.Unmarshal(answer, &p) != nil || p.Title == "" {
		return fmt.Errorf("%s: %s", what, res.Status)
	}
	text := p.Error()
	if p.Hint != "" {
		text += " (hint: " + p.Hint + ")"
	}
	for k := kind.Internal; k <= kind.Conflict; k++ {
		if k.String() == p.Kind {
			return kind.Errorf(k, "%s: %s", what, text)
		}
	}
	return fmt.Errorf("%s: %s", what, text)
}

// untilDone repeats f while it is Busy: a group that has just begun elects and
// mounts first.
func untilDone(ctx context.Context, f func() error) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		err := f()
		if err == nil || !kind.Is(err, kind.Busy) && !kind.Is(err, kind.Conflict) {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w", context.Cause(ctx), err)
		}
	}
}
