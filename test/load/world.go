package load

import (
	"fmt"
	"time"
)

// World is everything outside of a lab: a name server and mail servers on
// loopback, each domain with manners of its own.
type World struct {
	Sink  *Sink
	Names *Names
	Port  int // of all mail servers
	away  string
}

// The domains of a World. Each has one host.
const (
	Polite  = "polite.invalid"   // takes everything
	Moody   = "moody.invalid"    // defers, cuts and hangs now and then
	Lossy   = "lossy.invalid"    // now and then takes a message and does not say so
	Nobody  = "nobody.invalid"   // refuses every recipient
	AwayFor = "away.invalid"     // its host is not there until Return
	Busy    = "deferred.invalid" // defers everything until told otherwise
)

// Domains are those of a World, the one that takes everything first.
func Domains() []string { return []string{Polite, Moody, Lossy, Nobody, AwayFor} }

// worldIP is the address of the mail servers but the one that is away.
const (
	worldIP = "127.0.0.91"
	awayIP  = "127.0.0.92"
)

// StartWorld starts everything outside on two ports: names at the first, mail
// servers at the second.
func StartWorld(basePort int) (*World, error) {
	w := &World{Sink: NewSink(), Port: basePort + 1, away: fmt.Sprintf("%s:%d", awayIP, basePort+1)}
	hosts := map[string]string{Busy: worldIP}
	for _, d := range Domains() {
		hosts[d] = worldIP
	}
	hosts[AwayFor] = awayIP
	w.Sink.Behave(Moody, Manners{Defer: 7, DeferAt: 11, Cut: 13, Hang: 17, HangFor: 3 * time.Second})
	w.Sink.Behave(Lossy, Manners{Lose: 10})
	w.Sink.Behave(Nobody, Manners{Refuse: 1})
	w.Sink.Behave(Busy, Manners{Defer: 1})
	var err error
	if w.Names, err = StartNames(fmt.Sprintf("127.0.0.1:%d", basePort), hosts); err != nil {
		return nil, err
	}
	if err := w.Sink.Up(w.Host()); err != nil {
		w.Names.Close()
		return nil, err
	}
	return w, nil
}

// LabArgs make a lab live in this world.
func (w *World) LabArgs() []string {
	return []string{"--dns", w.Names.Addr, "--remote-port", fmt.Sprint(w.Port)}
}

// Host is host:port of the mail server that is there.
func (w *World) Host() string { return fmt.Sprintf("%s:%d", worldIP, w.Port) }

// Return lets the host that was away come back, and all behave from now on; who
// refuses goes on to.
func (w *World) Return() error {
	for _, d := range []string{Moody, Lossy, Busy} {
		w.Sink.Behave(d, Manners{})
	}
	return w.Sink.Up(w.away)
}

// Close ends it.
func (w *World) Close() error {
	w.Names.Close()
	return w.Sink.Close()
}
