package load

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// Session is an IMAP session that appends, flags, moves, reads and idles in
// two folders of its own.
type Session struct {
	Name    string
	Number  int
	User    User
	Target  *Target
	History *History
	Pause   time.Duration // between two steps

	conn   *conn
	rand   *rand.Rand
	next   int
	msgs   []*held // in the open folder
	stale  bool    // what is in the folders has to be read again
	opened bool
	begun  time.Time // first try of the present step; zero before it
}

// held is a message in the session's open folder.
type held struct {
	id    ID
	sum   Sum
	uid   imap.UID
	flags []string
}

// mostHeld bounds the open folder: from there on a session only moves.
const mostHeld = 40

func (s *Session) folder() string { return "load-" + s.Name }
func (s *Session) done() string   { return "load-" + s.Name + "-done" }

func (h *held) state(folder string) State { return State{folder, flagsOf(h.flags)} }

// Run works until ctx ends.
func (s *Session) Run(ctx context.Context) {
	s.rand = rand.New(rand.NewPCG(uint64(s.Number), 77))
	s.stale = true
	defer func() { s.conn.close() }()
	for ctx.Err() == nil {
		if s.begun.IsZero() {
			s.begun = time.Now()
		}
		if s.conn == nil && !s.connect(ctx) {
			continue
		}
		what, step := s.choose()
		err := s.conn.wait(step)
		if err == nil {
			s.History.Did(s.Name, what, s.begun)
			s.begun = time.Time{}
			pause(ctx, s.Pause)
			continue
		}
		s.failed(ctx, what, err)
	}
}

func (s *Session) failed(ctx context.Context, what string, err error) {
	s.stale = true
	if answered(err) {
		s.History.Trouble(s.Name, s.conn.server, FailedNO, what+": "+err.Error())
		pause(ctx, 200*time.Millisecond)
		return
	}
	if ctx.Err() == nil {
		kind := Disconnect
		if s.conn.saidBye(err) {
			kind = Goodbye
		}
		s.History.Trouble(s.Name, s.conn.server, kind, what+": "+err.Error())
	}
	s.conn.close()
	s.conn, s.opened = nil, false
}

func (s *Session) connect(ctx context.Context) bool {
	c, err := s.Target.login(s.Number, s.User, nil)
	if err != nil {
		s.History.Trouble(s.Name, c.server, NoConnect, err.Error())
		pause(ctx, 200*time.Millisecond)
		return false
	}
	s.conn, s.opened = c, false
	s.History.At(s.Name, c.server)
	return true
}

// choose picks the next step.
func (s *Session) choose() (string, func() error) {
	if !s.opened {
		return "imap select", s.open
	}
	if s.stale {
		return "imap resync", s.resync
	}
	n := s.rand.IntN(100)
	switch {
	case len(s.msgs) == 0 || (n < 40 && len(s.msgs) < mostHeld):
		return "imap append", s.append
	case n < 65:
		return "imap flag", s.flag
	case n < 80:
		return "imap move", s.move
	case n < 90:
		return "imap fetch", s.fetch
	case n < 95:
		return "imap idle", s.idle
	}
	return "imap noop", func() error { return s.conn.client.Noop().Wait() }
}

// open makes the folders where they are missing and selects the first.
func (s *Session) open() error {
	c := s.conn.client
	for _, f := range []string{s.done(), s.folder()} {
		if err := c.Create(f, nil).Wait(); err != nil && !answered(err) {
			return err
		}
	}
	if _, err := c.Select(s.folder(), nil).Wait(); err != nil {
		return err
	}
	s.opened = true
	return nil
}

func (s *Session) append() error {
	s.next++
	id := ID(fmt.Sprintf("%s-%d", s.Name, s.next))
	raw := Compose(id, s.User.Address, []string{s.User.Address}, 1<<10+s.rand.IntN(8<<10), s.rand)
	m := &held{id: id, sum: sha256.Sum256(raw)}
	var flags []imap.Flag
	if s.rand.IntN(2) == 0 {
		m.flags, flags = []string{`\seen`}, []imap.Flag{imap.FlagSeen}
	}
	s.History.Track(id, m.sum, s.User.Address, State{}, m.state(s.folder()))
	cmd := s.conn.client.Append(s.folder(), int64(len(raw)), &imap.AppendOptions{Flags: flags})
	if _, err := cmd.Write(raw); err != nil {
		return err
	}
	if err := cmd.Close(); err != nil {
		return err
	}
	data, err := cmd.Wait()
	if err != nil {
		return err
	}
	s.History.Track(id, m.sum, s.User.Address, m.state(s.folder()))
	m.uid = data.UID
	if m.uid == 0 {
		s.stale = true // a server without UIDPLUS: read the folder to learn it
		return nil
	}
	s.msgs = append(s.msgs, m)
	return nil
}

func (s *Session) flag() error {
	m := s.msgs[s.rand.IntN(len(s.msgs))]
	flag := []string{`\seen`, `\flagged`, `\answered`, "load-keyword"}[s.rand.IntN(4)]
	before := m.state(s.folder())
	op, flags := imap.StoreFlagsAdd, append(slices.Clone(m.flags), flag)
	if slices.Contains(m.flags, flag) {
		op, flags = imap.StoreFlagsDel, slices.DeleteFunc(slices.Clone(m.flags), func(f string) bool { return f == flag })
	}
	after := State{s.folder(), flagsOf(flags)}
	s.History.Track(m.id, m.sum, s.User.Address, before, after)
	err := s.conn.client.Store(imap.UIDSetNum(m.uid), &imap.StoreFlags{Op: op, Silent: s.rand.IntN(2) == 0, Flags: []imap.Flag{imap.Flag(flag)}}, nil).Close()
	if err != nil {
		return err
	}
	m.flags = flags
	s.History.Track(m.id, m.sum, s.User.Address, after)
	return nil
}

func (s *Session) move() error {
	i := s.rand.IntN(len(s.msgs))
	m := s.msgs[i]
	s.History.Track(m.id, m.sum, s.User.Address, m.state(s.folder()), m.state(s.done()))
	done, err := s.conn.client.Move(imap.UIDSetNum(m.uid), s.done()).Wait()
	if err != nil {
		return err
	}
	// A server may say OK to a UID it does not know: then nothing moved.
	if moved, ok := done.SourceUIDs.(imap.UIDSet); !ok || !moved.Contains(m.uid) {
		s.wrong("move of %s, UID %d, is OK and moved %v", m.id, m.uid, done.SourceUIDs)
		s.stale = true
		return nil
	}
	s.History.Track(m.id, m.sum, s.User.Address, m.state(s.done()))
	s.msgs = slices.Delete(s.msgs, i, i+1)
	return nil
}

// fetch reads a message back and compares it.
func (s *Session) fetch() error {
	m := s.msgs[s.rand.IntN(len(s.msgs))]
	list, err := s.conn.client.Fetch(imap.UIDSetNum(m.uid), wholeMessage).Collect()
	if err != nil {
		return err
	}
	if len(list) != 1 {
		s.wrong("fetch of %s by UID %d: %d answers, want 1", m.id, m.uid, len(list))
		s.stale = true
		return nil
	}
	id, sum, _ := Identify(bodyOf(list[0]))
	if id != m.id || sum != m.sum {
		s.wrong("fetch of %s by UID %d: got %s with checksum %s", m.id, m.uid, id, sum)
	}
	if got := stateOf(s.folder(), list[0]); got != m.state(s.folder()) {
		s.wrong("fetch of %s: %s, want %s", m.id, got, m.state(s.folder()))
	}
	return nil
}

// idle waits a moment for news.
func (s *Session) idle() error {
	cmd, err := s.conn.client.Idle()
	if err != nil {
		return err
	}
	t := time.NewTimer(time.Duration(200+s.rand.IntN(800)) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		s.begun = time.Now() // the wait was our own will
	case <-s.conn.client.Closed():
	}
	if err := cmd.Close(); err != nil {
		return err
	}
	return cmd.Wait()
}

// resync reads the open folder again after an unknown outcome. What is found has to
// be one of the states that are possible, and is certain from then on.
func (s *Session) resync() error {
	tracked := s.History.trackedOf(s.User.Address)
	s.msgs = s.msgs[:0]
	all := imap.SeqSet{imap.SeqRange{Start: 1}}
	if s.conn.messages() > 0 {
		list, err := s.conn.client.Fetch(all, wholeMessage).Collect()
		if err != nil {
			return err
		}
		for _, m := range list {
			s.meet(tracked, m)
		}
	}
	s.stale = false
	return nil
}

func (s *Session) meet(tracked map[ID]Tracked, m *imapclient.FetchMessageBuffer) {
	id, sum, ok := Identify(bodyOf(m))
	t, known := tracked[id]
	if !ok || !known {
		return
	}
	got := stateOf(s.folder(), m)
	if !t.allows(got) || sum != t.Sum {
		s.wrong("%s is %s, possible were %v", id, got, t.States)
		return
	}
	s.History.Track(id, t.Sum, s.User.Address, got)
	s.msgs = append(s.msgs, &held{id: id, sum: t.Sum, uid: m.UID, flags: strings.Fields(got.Flags)})
}

func (s *Session) wrong(format string, args ...any) {
	s.History.Trouble(s.Name, s.conn.server, WrongView, fmt.Sprintf(format, args...))
}

var wholeMessage = &imap.FetchOptions{UID: true, Flags: true, BodySection: []*imap.FetchItemBodySection{{Peek: true}}}

func bodyOf(m *imapclient.FetchMessageBuffer) []byte {
	for _, b := range m.BodySection {
		return b.Bytes
	}
	return nil
}

func stateOf(folder string, m *imapclient.FetchMessageBuffer) State {
	flags := make([]string, len(m.Flags))
	for i, f := range m.Flags {
		flags[i] = string(f)
	}
	return State{folder, flagsOf(flags)}
}
