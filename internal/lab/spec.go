package lab

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Spec is what kind of group a lab builds. It is written to DIR/spec.json by the
// first start and rules all later ones.
type Spec struct {
	Servers   int  `json:"servers"`
	Sites     int  `json:"sites"`
	Witness   bool `json:"witness"`
	Databases int  `json:"databases"`
	Copies    int  `json:"copies"`
	Volumes   int  `json:"volumes"`
	// Spares are the empty volumes of each server, named on from the others.
	Spares   int    `json:"spares,omitempty"`
	Users    int    `json:"users"`
	Domain   string `json:"domain"`
	Password string `json:"password"`
	BasePort int    `json:"base_port"`
	Fast     bool   `json:"fast"`
	// VolumeSize is the most a volume may hold, in bytes.
	VolumeSize int64 `json:"volume_size"`
	// DNS is the resolver the servers ask, as host:port, and RemotePort the port
	// of other mail servers; empty and 0: as everywhere. With a resolver of its
	// own and hosts on loopback a test is the rest of the world.
	DNS        string `json:"dns,omitempty"`
	RemotePort int    `json:"remote_port,omitempty"`
}

// DefaultSpec is the lab of `make run`.
func DefaultSpec() Spec {
	return Spec{Servers: 3, Sites: 1, Databases: 3, Copies: 3, Volumes: 2, Users: 12,
		Domain: "example.test", BasePort: 20000, VolumeSize: 20 << 30}
}

// maxServers is what one availability group may have.
const maxServers = 16

// Validate reports the first setting that cannot work.
func (s Spec) Validate() error {
	last := s.BasePort + 100*(s.Servers+1) + portSpan
	switch {
	case s.Servers < 1 || s.Servers > maxServers:
		return kind.Errorf(kind.Invalid, "--servers %d: a group has 1 to %d servers", s.Servers, maxServers)
	case s.Sites < 1 || s.Sites > s.Servers:
		return kind.Errorf(kind.Invalid, "--sites %d: want 1 to %d, a site has at least one server", s.Sites, s.Servers)
	case s.Copies < 1 || s.Copies > s.Servers:
		return kind.Errorf(kind.Invalid, "--copies %d: want 1 to %d, a server holds one copy of a database", s.Copies, s.Servers)
	case s.Databases < 1 || s.Databases > 100:
		return kind.Errorf(kind.Invalid, "--databases %d: want 1 to 100", s.Databases)
	case s.Volumes < 1 || s.Volumes > 16:
		return kind.Errorf(kind.Invalid, "--volumes %d: want 1 to 16", s.Volumes)
	case s.Spares < 0 || s.Spares > 16:
		return kind.Errorf(kind.Invalid, "--spares %d: want 0 to 16", s.Spares)
	case s.Users < 1 || s.Users > 100000:
		return kind.Errorf(kind.Invalid, "--users %d: want 1 to 100000", s.Users)
	case s.BasePort < 1024 || last > 65535:
		return kind.Errorf(kind.Invalid, "--base-port %d: ports up to %d would be used, want 1024 to 65535", s.BasePort, last)
	case !strings.Contains(s.Domain, ".") || strings.ContainsAny(s.Domain, " @/\"\\"):
		return kind.Errorf(kind.Invalid, "--domain %q: want a domain name such as example.test", s.Domain)
	case s.RemotePort < 0 || s.RemotePort > 65535:
		return kind.Errorf(kind.Invalid, "--remote-port %d: want 1 to 65535", s.RemotePort)
	case s.DNS != "" && !strings.Contains(s.DNS, ":"):
		return kind.Errorf(kind.Invalid, "--dns %q: want host:port", s.DNS)
	case strings.ContainsAny(s.Password, "\"\\\n"):
		return kind.Errorf(kind.Invalid, "--password: without quotes, backslashes and line breaks, please")
	}
	return nil
}

// newPassword makes one that can be typed and pasted into a shell.
func newPassword() string { return strings.ToLower(rand.Text()[:16]) }

// Ports of a server, from its own base of 100.
const (
	portSMTP        = 25
	portIMAP        = 43
	portHTTPS       = 44
	portSubmissions = 65
	portCluster     = 70
	portEtcdPeer    = 71
	portEtcdClient  = 72
	portHTTP        = 80
	portSubmission  = 87
	portMetrics     = 90
	portIMAPS       = 93
	portSpan        = 99
)

// ServerPlan is where a server of the lab will be.
type ServerPlan struct {
	Name    string
	Index   int // 1 for the first
	Site    string
	Witness bool
	Dir     string // data folder
	IP      string // for what is between servers
	ports   int
	gid     uint32
}

// Door is host:port of a door for clients.
func (p ServerPlan) Door(port int) string { return fmt.Sprintf("127.0.0.1:%d", p.ports+port) }

// Inner is host:port of a listener for other servers.
func (p ServerPlan) Inner(port int) string { return fmt.Sprintf("%s:%d", p.IP, p.ports+port) }

// VolumeDir is the folder of volume v, from 1.
func (p ServerPlan) VolumeDir(v int) string {
	return filepath.Join(p.Dir, "volumes", volumeName(v))
}

func volumeName(v int) string { return fmt.Sprintf("Vol%d", v) }

// Layout plans the servers of a lab in dir. Servers are spread over the sites in turn;
// a witness stands in a site of its own where there are several.
func Layout(s Spec, dir string) []ServerPlan {
	var out []ServerPlan
	add := func(name, site string, witness bool) {
		i := len(out) + 1
		out = append(out, ServerPlan{Name: name, Index: i, Site: site, Witness: witness, Dir: filepath.Join(dir, name),
			IP: fmt.Sprintf("127.0.0.%d", 10+i), ports: s.BasePort + 100*i, gid: firstGID + uint32(i)})
	}
	for i := range s.Servers {
		add(fmt.Sprintf("MBX%d", i+1), fmt.Sprintf("Site%d", i%s.Sites+1), false)
	}
	if s.Witness {
		site := "Site1"
		if s.Sites > 1 {
			site = fmt.Sprintf("Site%d", s.Sites+1)
		}
		add("WIT1", site, true)
	}
	return out
}

// DatabasePlan is a database and its copies, most preferred server first.
type DatabasePlan struct {
	Name    string
	Servers []string
	Volume  string
}

// Databases plans databases so that each server is the first choice of as
// many as the others.
func Databases(s Spec) []DatabasePlan {
	var out []DatabasePlan
	for d := range s.Databases {
		p := DatabasePlan{Name: fmt.Sprintf("DB%02d", d+1), Volume: volumeName(d/s.Servers%s.Volumes + 1)}
		for c := range s.Copies {
			p.Servers = append(p.Servers, fmt.Sprintf("MBX%d", (d+c)%s.Servers+1))
		}
		out = append(out, p)
	}
	return out
}

// UserPlan is a user and where the mailbox will live.
type UserPlan struct{ Address, Database string }

// Users plans the users of a lab.
func Users(s Spec) []UserPlan {
	out := make([]UserPlan, s.Users)
	for i := range out {
		out[i] = UserPlan{fmt.Sprintf("user%d@%s", i+1, s.Domain), fmt.Sprintf("DB%02d", i%s.Databases+1)}
	}
	return out
}
