package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Rest waits; its error is that of a context that ended first.
func Rest(ctx context.Context, d time.Duration) error {
	pause(ctx, d)
	return ctx.Err()
}

// MostActive is the server with the most active databases; why names them.
func (l *Lab) MostActive(ctx context.Context) (server, why string, err error) {
	list, err := l.Databases(ctx)
	if err != nil {
		return "", "", err
	}
	held := map[string][]string{}
	for _, d := range list {
		if d.Active != "" {
			held[d.Active] = append(held[d.Active], d.Name)
		}
	}
	if len(held) == 0 {
		return "", "", errors.New("no database is active")
	}
	server = slices.MaxFunc(slices.Sorted(maps.Keys(held)), func(a, b string) int { return cmp.Compare(len(held[a]), len(held[b])) })
	return server, strings.Join(held[server], ","), nil
}

// Holds names the databases active on a server, for a table.
func (l *Lab) Holds(ctx context.Context, server string) string {
	list, err := l.Databases(ctx)
	if err != nil {
		return "?"
	}
	var out []string
	for _, d := range list {
		if d.Active == server {
			out = append(out, d.Name)
		}
	}
	return strings.Join(out, ",")
}

// Primary is the server with the primary Active Manager.
func (l *Lab) Primary(ctx context.Context) (server, why string, err error) {
	var rows []struct {
		Server string `json:"server"`
		Role   string `json:"role"`
	}
	if err := l.Command(ctx, &rows, "active", "status"); err != nil {
		return "", "", err
	}
	for _, r := range rows {
		if r.Role == "primary" {
			return r.Server, "primary Active Manager", nil
		}
	}
	return "", "", errors.New("nobody is the primary Active Manager")
}

// Leader is the server that leads etcd.
func (l *Lab) Leader(ctx context.Context) (server, why string, err error) {
	var s struct {
		Leader string `json:"leader"`
	}
	if err := l.Command(ctx, &s, "cluster", "status"); err != nil {
		return "", "", err
	}
	if s.Leader == "" {
		return "", "", errors.New("etcd has no leader")
	}
	return s.Leader, "etcd leader", nil
}

// moveWindow is the time in which clients notice a planned move, if at all.
const moveWindow = 2 * time.Second

// Move makes another copy of the n-th database active, counting round, and
// waits until its window is over.
func (l *Lab) Move(ctx context.Context, n int) (Fault, error) {
	list, err := l.Databases(ctx)
	if err != nil {
		return Fault{}, err
	}
	if len(list) == 0 {
		return Fault{}, errors.New("no database to move")
	}
	d := list[n%len(list)]
	to := ""
	for _, s := range d.InSync {
		if s != d.Active {
			to = s
		}
	}
	at := time.Now()
	if err := l.Command(ctx, nil, "database", "move", d.Name, "--to", to); err != nil {
		return Fault{}, fmt.Errorf("move of %s from %s to %s: %w", d.Name, d.Active, to, err)
	}
	f := Fault{At: at, Until: at.Add(moveWindow), Kind: "move", What: d.Name + " " + d.Active + " to " + to}
	return f, Rest(ctx, moveWindow)
}
