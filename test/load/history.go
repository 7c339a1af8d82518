package load

import (
	"sync"
	"time"
)

// Outcome of a message as its client knows it.
type Outcome uint8

// Outcomes.
const (
	Unknown   Outcome = iota // no answer came
	Confirmed                // 250 or OK
	Refused                  // a final answer that is not success
)

// Sent is one message of the load.
type Sent struct {
	ID         ID
	Sum        Sum
	Recipients []string // addresses
	Outcome    Outcome
	Author     string // who gets it back when it cannot be delivered, "" for nobody here
	Trace      string // the server's name for it, of the 250
	Server     string // that it was given to last
	Ended      time.Time
}

// Success is one confirmed step of a client, for the measurement of pauses.
type Success struct {
	At      time.Time
	Latency time.Duration // since the first try
}

// Trouble is something a client did not like.
type Trouble struct {
	At     time.Time
	Client string
	Server string
	Kind   TroubleKind
	Text   string
}

// TroubleKind says what sort of trouble.
type TroubleKind string

// Kinds of trouble.
const (
	Disconnect TroubleKind = "disconnect" // the connection broke
	FailedNO   TroubleKind = "failed"     // NO, BAD, 4xx or 5xx to something valid
	NoConnect  TroubleKind = "no-connect" // a connection was not taken or the login failed
	WrongView  TroubleKind = "wrong-view" // a session was told something that is not so
	Goodbye    TroubleKind = "goodbye"    // the server closed the connection between two commands and said so (421, BYE)
)

// History is what all clients remember. It is safe for concurrent use.
type History struct {
	mu        sync.Mutex // guards all below
	sent      map[ID]*Sent
	tracked   map[ID]*Tracked
	watched   map[string]map[ID]int // watcher to what it was told of, and how often
	watcherOf map[string]string     // watcher to the address it watches
	clients   map[string][]Success
	servers   map[string][]stay
	troubles  []Trouble
	counts    map[string]int64
}

// stay is a time that a client spent at a server.
type stay struct {
	server string
	from   time.Time
}

// NewHistory returns an empty one.
func NewHistory() *History {
	return &History{sent: map[ID]*Sent{}, tracked: map[ID]*Tracked{}, watched: map[string]map[ID]int{}, watcherOf: map[string]string{}, clients: map[string][]Success{}, servers: map[string][]stay{}, counts: map[string]int64{}}
}

// Begin notes a message before the first byte of it is sent.
func (h *History) Begin(id ID, sum Sum, recipients []string) *Sent {
	s := &Sent{ID: id, Sum: sum, Recipients: recipients}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent[id] = s
	return s
}

// End notes the outcome of a message.
func (h *History) End(s *Sent, o Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Outcome, s.Ended = o, time.Now()
}

// Of notes who wrote a message, and to which server it is given.
func (h *History) Of(s *Sent, author, server string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Author, s.Server = author, server
}

// Kept notes what the server said when it took a message.
func (h *History) Kept(s *Sent, said string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Trace = traceOf(said)
}

// Sent returns copies of all messages.
func (h *History) Sent() []Sent {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Sent, 0, len(h.sent))
	for _, s := range h.sent {
		out = append(out, *s)
	}
	return out
}

// At notes that a client works with a server from now on.
func (h *History) At(client, server string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.servers[client] = append(h.servers[client], stay{server, time.Now()})
}

// Did notes a success of a client; begun is when the step began.
func (h *History) Did(client, what string, begun time.Time) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients[client] = append(h.clients[client], Success{now, now.Sub(begun)})
	h.counts[what]++
}

// Trouble notes something that went wrong.
func (h *History) Trouble(client, server string, k TroubleKind, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.troubles = append(h.troubles, Trouble{time.Now(), client, server, k, text})
}

// Troubles lists all that went wrong so far.
func (h *History) Troubles() []Trouble {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Trouble(nil), h.troubles...)
}

// Counts tells how often each step was confirmed.
func (h *History) Counts() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]int64, len(h.counts))
	for k, v := range h.counts {
		out[k] = v
	}
	return out
}

// Messages tells how many messages have each outcome.
func (h *History) Messages() (confirmed, refused, unknown int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sent {
		switch s.Outcome {
		case Confirmed:
			confirmed++
		case Refused:
			refused++
		default:
			unknown++
		}
	}
	return confirmed, refused, unknown
}

// Latencies are those of all steps of the clients whose name begins with prefix.
func (h *History) Latencies(prefix string) []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []time.Duration
	for name, list := range h.clients {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			for _, s := range list {
				out = append(out, s.Latency)
			}
		}
	}
	return out
}
