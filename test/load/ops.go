package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"golang.org/x/sync/errgroup"
)

// CountAll sums the messages in all INBOXes.
func CountAll(t *Target) (int, error) {
	var mu sync.Mutex // guards sum
	sum := 0
	var g errgroup.Group
	g.SetLimit(8)
	for i, u := range t.Users {
		g.Go(func() error {
			c, err := t.login(i, u, nil)
			if err != nil {
				return err
			}
			defer c.close()
			return c.wait(func() error {
				st, err := c.client.Status("INBOX", &imap.StatusOptions{NumMessages: true}).Wait()
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				sum += int(*st.NumMessages)
				return nil
			})
		})
	}
	return sum, g.Wait()
}

// Op is one IMAP operation to measure.
type Op struct {
	Name string
	// Fresh operations connect by themselves.
	Fresh bool
	// Grows says that each one adds a message.
	Grows bool
	do    func(w *opWorker) error
}

// opWorker is one session that repeats an operation.
type opWorker struct {
	target *Target
	number int
	user   User
	conn   *conn
	count  uint32 // messages in INBOX
	rand   *rand.Rand
	n      int
}

// Ops are the operations of the comparison.
func Ops() []Op {
	header := &imap.FetchOptions{UID: true, Flags: true, RFC822Size: true, InternalDate: true, BodySection: []*imap.FetchItemBodySection{{
		Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"From", "To", "Subject", "Date", "Message-ID"}, Peek: true}}}
	return []Op{
		{Name: "login and select", Fresh: true, do: func(w *opWorker) error {
			if err := w.connect(); err != nil {
				return err
			}
			defer w.conn.close()
			return w.conn.wait(func() error { return w.conn.client.Logout().Wait() })
		}},
		{Name: "fetch 50 headers", do: func(w *opWorker) error { return w.fetch(50, header) }},
		{Name: "fetch a body", do: func(w *opWorker) error { return w.fetch(1, wholeMessage) }},
		{Name: "flag", do: func(w *opWorker) error {
			op := imap.StoreFlagsAdd
			if w.n%2 == 0 {
				op = imap.StoreFlagsDel
			}
			w.n++
			return w.conn.client.Store(imap.SeqSetNum(1+w.rand.Uint32N(w.count)), &imap.StoreFlags{Op: op, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Close()
		}},
		{Name: "search a subject", do: func(w *opWorker) error {
			_, err := w.conn.client.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: "no such words"}}}, nil).Wait()
			return err
		}},
		{Name: "append 4 KiB", Grows: true, do: func(w *opWorker) error {
			w.n++
			raw := Compose(ID(fmt.Sprintf("op-%d-%d", w.number, w.n)), w.user.Address, []string{w.user.Address}, 4<<10, w.rand)
			return w.conn.append(raw)
		}},
	}
}

func (w *opWorker) connect() error {
	c, err := w.target.login(w.number, w.user, nil)
	if err != nil {
		return err
	}
	w.conn = c
	return c.wait(func() error {
		sel, err := c.client.Select("INBOX", nil).Wait()
		if err == nil {
			w.count = sel.NumMessages
		}
		return err
	})
}

func (w *opWorker) fetch(n uint32, o *imap.FetchOptions) error {
	n = min(n, w.count)
	from := 1 + w.rand.Uint32N(w.count-n+1)
	set := imap.SeqSet{imap.SeqRange{Start: from, Stop: from + n - 1}}
	cmd := w.conn.client.Fetch(set, o)
	got := uint32(0)
	for m := cmd.Next(); m != nil; m = cmd.Next() {
		if _, err := m.Collect(); err != nil {
			return err
		}
		got++
	}
	if err := cmd.Close(); err != nil {
		return err
	}
	if got < n {
		return fmt.Errorf("%d of %d messages came", got, n)
	}
	return nil
}

// RunOp repeats an operation in several sessions for a while. It returns how
// long each took and how many failed. What is under way when the while is
// over is waited for, when outer ends it is not.
func RunOp(outer context.Context, t *Target, op Op, sessions int, d time.Duration) ([]time.Duration, int, error) {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	var mu sync.Mutex // guards lat and fails
	var lat []time.Duration
	fails := 0
	ready := make(chan struct{})
	var g, up errgroup.Group
	for i := range sessions {
		w := &opWorker{target: t, number: i, user: t.Users[i%len(t.Users)], rand: rand.New(rand.NewPCG(uint64(i), 5))}
		connected := make(chan error, 1)
		up.Go(func() error { return <-connected })
		g.Go(func() error {
			if !op.Fresh {
				err := w.connect()
				if err == nil && w.count == 0 {
					err = fmt.Errorf("INBOX of %s is empty", w.user.Address)
				}
				connected <- err
				if err != nil {
					return err
				}
				defer w.conn.close()
				defer context.AfterFunc(outer, w.conn.close)()
			} else {
				connected <- nil
			}
			<-ready
			for ctx.Err() == nil {
				begun := time.Now()
				err := op.do(w)
				took := time.Since(begun)
				mu.Lock()
				if err != nil {
					fails++
				} else {
					lat = append(lat, took)
				}
				mu.Unlock()
				if err != nil && !answered(err) && !op.Fresh {
					return err
				}
			}
			return nil
		})
	}
	upErr := up.Wait()
	if upErr != nil {
		cancel()
	}
	timer := time.AfterFunc(d, cancel)
	defer timer.Stop()
	close(ready)
	err := g.Wait()
	if upErr != nil {
		return nil, 0, upErr
	}
	return lat, fails, err
}

// HoldIdle opens n sessions that idle on INBOX; stop closes them.
func HoldIdle(ctx context.Context, t *Target, n int) (stop func(), err error) {
	var mu sync.Mutex // guards open
	var open []*conn
	stop = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			c.close()
		}
	}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c, err := t.login(i, t.Users[i%len(t.Users)], &imapclient.UnilateralDataHandler{})
			if err != nil {
				return err
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			return c.wait(func() error {
				if _, err := c.client.Select("INBOX", nil).Wait(); err != nil {
					return err
				}
				_, err := c.client.Idle()
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		stop()
		return nil, err
	}
	pause(ctx, 3*time.Second) // let garbage of the logins go
	return stop, nil
}
