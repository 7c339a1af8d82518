package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/sync/errgroup"
)

// bulkPatience is how long one command on a very large folder may take.
const bulkPatience = 5 * time.Minute

// Box is a session that works on a whole INBOX at once.
type Box struct {
	conn   *conn
	count  uint32
	forget func() bool
}

// Open logs in and selects the INBOX of a user. The session ends with ctx or
// by Close.
func (t *Target) Open(ctx context.Context, n int, u User) (*Box, error) {
	c, err := t.login(n, u, nil)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", u.Address, err)
	}
	b := &Box{conn: c, forget: context.AfterFunc(ctx, c.close)}
	if err := b.Again(); err != nil {
		b.Close()
		return nil, fmt.Errorf("open %s: %w", u.Address, err)
	}
	return b, nil
}

// Close ends the session.
func (b *Box) Close() {
	b.forget()
	b.conn.close()
}

// Messages is how many messages there were at the last Open or Again.
func (b *Box) Messages() int { return int(b.count) }

// Again selects INBOX anew.
func (b *Box) Again() error {
	return b.wait(func() error {
		sel, err := b.conn.client.Select("INBOX", nil).Wait()
		if err == nil {
			b.count = sel.NumMessages
		}
		return err
	})
}

func (b *Box) wait(f func() error) error {
	t := time.AfterFunc(bulkPatience, func() { b.conn.client.Close() })
	defer t.Stop()
	return f()
}

// Copy copies the first n messages of INBOX into INBOX.
func (b *Box) Copy(n int) error {
	return b.wait(func() error {
		_, err := b.conn.client.Copy(imap.SeqSet{imap.SeqRange{Start: 1, Stop: uint32(n)}}, "INBOX").Wait()
		return err
	})
}

// FlagAll sets or takes a flag on all messages with one silent STORE.
func (b *Box) FlagAll(op imap.StoreFlagsOp, flag imap.Flag) error {
	return b.wait(func() error {
		return b.conn.client.Store(imap.SeqSet{imap.SeqRange{Start: 1}}, &imap.StoreFlags{Op: op, Silent: true, Flags: []imap.Flag{flag}}, nil).Close()
	})
}

// WithFlag counts the messages that have a flag.
func (b *Box) WithFlag(flag imap.Flag) (n int, err error) {
	err = b.wait(func() error {
		data, err := b.conn.client.Search(&imap.SearchCriteria{Flag: []imap.Flag{flag}}, nil).Wait()
		if err == nil {
			n = len(data.AllSeqNums())
		}
		return err
	})
	return n, err
}

// AppendMany appends n messages of about size bytes to the INBOX of a user
// over so many sessions.
func AppendMany(ctx context.Context, t *Target, u User, n, size, sessions int) error {
	var left atomic.Int64
	left.Store(int64(n))
	g, ctx := errgroup.WithContext(ctx)
	begun := time.Now().UnixNano()
	for i := range sessions {
		g.Go(func() error {
			b, err := t.Open(ctx, i, u)
			if err != nil {
				return err
			}
			defer b.Close()
			r := rand.New(rand.NewPCG(uint64(i), uint64(begun)))
			for k := left.Add(-1); k >= 0; k = left.Add(-1) {
				raw := Compose(ID(fmt.Sprintf("fill-%d-%d", begun, k)), "load@load.invalid", []string{u.Address}, size, r)
				if err := b.wait(func() error { return b.conn.append(raw) }); err != nil {
					return fmt.Errorf("append to %s: %w", u.Address, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// append appends a message to INBOX.
func (c *conn) append(raw []byte) error {
	cmd := c.client.Append("INBOX", int64(len(raw)), nil)
	if _, err := cmd.Write(raw); err != nil {
		return err
	}
	if err := cmd.Close(); err != nil {
		return err
	}
	_, err := cmd.Wait()
	return err
}
