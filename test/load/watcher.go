package load

import (
	"context"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// Watcher idles on an INBOX and reads whatever it is told of. In the end it
// has to know every message exactly once: nothing may be reported twice or
// skipped over a failover.
type Watcher struct {
	Name    string
	Number  int
	User    User
	Target  *Target
	History *History

	conn  *conn
	known uint32   // messages seen in this connection
	last  imap.UID // highest UID ever seen
	news  chan struct{}
}

// Run watches until ctx ends, then reads what is still unread.
func (w *Watcher) Run(ctx context.Context) {
	w.news = make(chan struct{}, 1)
	w.History.watches(w.Name, w.User.Address)
	defer func() { w.conn.close() }()
	for ctx.Err() == nil {
		if w.conn == nil && !w.connect(ctx) {
			continue
		}
		if err := w.turn(ctx); err != nil {
			if answered(err) {
				w.History.Trouble(w.Name, w.conn.server, FailedNO, err.Error())
				pause(ctx, 200*time.Millisecond)
				continue
			}
			if ctx.Err() == nil {
				w.History.Trouble(w.Name, w.conn.server, Disconnect, err.Error())
			}
			w.conn.close()
			w.conn = nil
		}
	}
}

// connect selects INBOX; all after the last known UID is news.
func (w *Watcher) connect(ctx context.Context) bool {
	h := &imapclient.UnilateralDataHandler{Mailbox: func(d *imapclient.UnilateralDataMailbox) {
		if d.NumMessages != nil {
			select {
			case w.news <- struct{}{}:
			default:
			}
		}
	}}
	c, err := w.Target.login(w.Number, w.User, h)
	if err == nil {
		err = c.wait(func() error {
			_, err := c.client.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
			return err
		})
		if err != nil {
			c.close()
		}
	}
	if err != nil {
		w.History.Trouble(w.Name, c.server, NoConnect, err.Error())
		pause(ctx, 200*time.Millisecond)
		return false
	}
	w.conn = c
	w.History.At(w.Name, c.server)
	return true
}

// turn reads the news and idles until there are more.
func (w *Watcher) turn(ctx context.Context) error {
	if err := w.conn.wait(w.read); err != nil {
		return err
	}
	cmd, err := w.conn.client.Idle()
	if err != nil {
		return err
	}
	if w.conn.messages() == w.known {
		select {
		case <-w.news:
		case <-w.conn.client.Closed():
		case <-ctx.Done():
		}
	}
	if err := w.conn.wait(cmd.Close); err != nil {
		return err
	}
	if err := w.conn.wait(cmd.Wait); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return w.conn.wait(w.read)
	}
	return nil
}

// read fetches the identities of the messages above the last known UID.
func (w *Watcher) read() error {
	w.known = w.conn.messages()
	if w.known == 0 {
		return nil
	}
	set := imap.UIDSet{imap.UIDRange{Start: w.last + 1}}
	list, err := w.conn.client.Fetch(set, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{{
		Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"X-Load-Id"}, Peek: true}}}).Collect()
	if err != nil {
		return err
	}
	last := w.last
	for _, m := range list {
		// UID n:* always gives the last message (RFC 9051 section 9, seq-range).
		if m.UID <= last {
			continue
		}
		w.last = max(w.last, m.UID)
		if id, _, ok := Identify(bodyOf(m)); ok {
			w.History.saw(w.Name, id)
		}
	}
	return nil
}

// saw notes that a watcher was told of a message.
func (h *History) saw(watcher string, id ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched[watcher][id]++
}

// watches notes whose INBOX a watcher watches.
func (h *History) watches(watcher, address string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watcherOf[watcher] = address
	h.watched[watcher] = map[ID]int{}
}
