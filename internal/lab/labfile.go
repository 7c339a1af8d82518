package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// File is DIR/lab.json: all that a program needs to use a lab. Addresses are
// host:port. Fields are only ever added.
type File struct {
	Ready   bool     `json:"ready"`
	Domain  string   `json:"domain"`
	Admin   Admin    `json:"admin"`
	Users   []User   `json:"users"`
	CA      string   `json:"ca"` // path of the certificate that signs all doors
	Servers []Server `json:"servers"`
	// Control is the lab's own socket, for `postern lab kill` and so on.
	Control string `json:"control"`
	Fast    bool   `json:"fast"`
	PID     int    `json:"pid"` // of the lab
}

// Admin is how to reach the admin API.
type Admin struct {
	User     string `json:"user"`
	Password string `json:"password"`
	URL      string `json:"url"`
}

// User is somebody with a mailbox.
type User struct {
	Address  string `json:"address"`
	Password string `json:"password"`
	Database string `json:"database"`
}

// Server is one server of the lab.
type Server struct {
	Name        string     `json:"name"`
	Site        string     `json:"site"`
	Witness     bool       `json:"witness,omitempty"`
	State       string     `json:"state"` // "running", "starting", "paused", "down"
	PID         int        `json:"pid"`   // of the host, 0 when it is down
	WorkerPIDs  WorkerPIDs `json:"worker_pids"`
	Dir         string     `json:"dir"`
	Log         string     `json:"log"`
	Socket      string     `json:"socket"` // of the admin API
	SMTP        string     `json:"smtp"`
	Submission  string     `json:"submission"`
	Submissions string     `json:"submissions"`
	IMAP        string     `json:"imap"`
	IMAPS       string     `json:"imaps"`
	HTTP        string     `json:"http"`
	HTTPS       string     `json:"https"`
	Metrics     string     `json:"metrics"`
	Cluster     string     `json:"cluster"`
}

// WorkerPIDs are the processes below a host, 0 for one that does not run.
type WorkerPIDs struct {
	Mail   int `json:"mail"`
	Health int `json:"health"`
}

// PIDs are all processes of a server that run.
func (s Server) PIDs() []int {
	var out []int
	for _, p := range []int{s.PID, s.WorkerPIDs.Mail, s.WorkerPIDs.Health} {
		if p > 0 {
			out = append(out, p)
		}
	}
	return out
}

// Server finds a server by name.
func (f File) Server(name string) (Server, bool) {
	for _, s := range f.Servers {
		if s.Name == name {
			return s, true
		}
	}
	return Server{}, false
}

// FilePath is where a lab in dir has its lab.json.
func FilePath(dir string) string { return filepath.Join(dir, "lab.json") }

// ReadFile reads DIR/lab.json.
func ReadFile(dir string) (File, error) {
	var f File
	err := readJSON(FilePath(dir), &f)
	return f, err
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("lab: %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file at once, so that a reader never sees half of it.
func writeJSON(path string, v any, mode os.FileMode) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("lab: %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), mode); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}
