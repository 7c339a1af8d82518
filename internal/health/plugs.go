package health

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

// Mesh is what the Desk needs of the other servers; node plugs it in.
type Mesh interface {
	// Publish tells all servers a small value; it replaces the section's former one.
	Publish(section string, v []byte)
	// Published is what a server, also this one, published last and when it was
	// last heard to be so.
	Published(s org.ServerName, section string) (v []byte, heard time.Time, ok bool)
	// Members are the names of all servers that hold mailboxes, this one too, in order.
	Members() []org.ServerName
	// Up tells whether a server is heard now.
	Up(s org.ServerName) bool
}

// Spares tells what the group could do without now; node plugs it in.
type Spares interface {
	// Databases lists each database that has a copy on this server with the
	// other servers that are up and have a copy in sync, and how many of them
	// have to remain (0 where there is no other copy at all).
	Databases() []DatabaseSpare
	// Held says which plan (maintenance, upgrade, drill) holds the group's spare
	// now, empty for none.
	Held() string
}

// DeskDeps are what a Desk is built from.
type DeskDeps struct {
	Server  org.ServerName
	Version string
	Dir     string // data folder; health/ in it is the room's
	Items   Items  // of all rooms, outside ones too, for listing
	Rows    Rows
	Mesh    Mesh
	Actor   Actor
	Spares  Spares
	Clock   Clock // nil: the system's
	// Figures tell the CPU pressure and the steal time in percent; nil: not known.
	Figures func() (pressure, steal float64)
	// Notes is what the rooms of this server did by themselves; nil: nothing.
	Notes   *Notes
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer // nil: none
}

// EngineDeps are what an Engine is built from.
type EngineDeps struct {
	Server org.ServerName
	Dir    string // data folder; health/ in it is the room's
	Items  Items  // the same as the Desk's; only outside probes are run
	// Desk speaks with the mail worker: a client that dials the admin socket
	// whatever the host in the address is.
	Desk *http.Client
	// Host does what is possible without the mail worker: RestartWorker.
	Host Actor
	// Ready tells whether the host has seen the mail worker ready: before, its
	// silence is no failure, and doors that refuse are no cause for a deed. nil:
	// always.
	Ready  func() bool
	Log    *slog.Logger
	Events *event.Log
}
