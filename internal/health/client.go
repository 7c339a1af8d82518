package health

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Patience of the Engine with the Desk.
const (
	askTime = 5 * time.Second
	actTime = 2 * time.Minute // a deed is given 90 s
)

// deskClient asks the Desk over the admin socket.
type deskClient struct{ http *http.Client }

func (c deskClient) results(ctx context.Context, boot, after uint64) (n news, err error) {
	err = c.call(ctx, askTime, http.MethodGet, fmt.Sprintf("%s?boot=%d&after=%d", pathResults, boot, after), nil, &n)
	return n, err
}

func (c deskClient) state(ctx context.Context, r report) error {
	return c.call(ctx, askTime, http.MethodPost, pathState, r, nil)
}

func (c deskClient) act(ctx context.Context, o order) (a answer, err error) {
	err = c.call(ctx, actTime, http.MethodPost, pathAct, o, &a)
	return a, err
}

func (c deskClient) log(ctx context.Context, row org.Recovery) error {
	return c.call(ctx, askTime, http.MethodPost, pathLog, row, nil)
}

// call does one request. Errors are Busy: the mail worker may answer later.
func (c deskClient) call(ctx context.Context, limit time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var body io.Reader
	if in != nil {
		raw, err := codec.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://postern"+path, body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return kind.Errorf(kind.Busy, "%s: %w", path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	switch {
	case err != nil:
		return kind.Errorf(kind.Busy, "%s: %w", path, err)
	case res.StatusCode >= 300:
		return kind.Errorf(kind.Busy, "%s: the mail worker answers %s: %s", path, res.Status, strings.TrimSpace(string(raw[:min(len(raw), 200)])))
	case out == nil:
		return nil
	}
	if err := codec.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
