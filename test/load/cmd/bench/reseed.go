package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// fillPatience is how long a database may take to become as large as is asked,
// and seedPatience how long its copy may take to come back.
const (
	fillPatience = time.Hour
	seedPatience = time.Hour
	// seedPause lies between two steps of a client while a copy is seeded: 80
	// clients' steps a second. Three servers and all clients share one machine.
	seedPause = 200 * time.Millisecond
)

// copyRow is what `copy status` tells of a copy.
type copyRow struct {
	Database string `json:"database"`
	Server   string `json:"server"`
	State    string `json:"state"`
	InSync   bool   `json:"in_sync"`
	Copied   int64  `json:"log_copied"`
}

// reseedRows fills a database, empties one of its passive copies and measures
// how fast it is seeded anew while clients write.
func reseedRows(ctx context.Context, o options, s system, r *results) error {
	db, err := fillDatabase(ctx, o, s)
	if err != nil {
		return err
	}
	stop := load.Crowd{Target: s.target, History: load.NewHistory(), Senders: lightSenders, Sessions: lightSessions, Sizes: load.Size4K,
		Pause: seedPause, SendPause: seedPause}.Start(ctx)
	defer stop()
	server := ""
	for _, c := range db.Copies {
		if c != db.Active {
			server = c
		}
	}
	size, err := copied(ctx, s, db.Name, db.Active)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := s.lab.Command(ctx, nil, "copy", "update", db.Name, server); err != nil {
		return err
	}
	err = s.lab.Wait(ctx, seedPatience, func() error {
		rows, err := copyRows(ctx, s, db.Name)
		for _, c := range rows {
			if c.Server == server && !c.InSync {
				return fmt.Errorf("%s on %s is %s at %d of %d bytes", c.Database, c.Server, c.State, c.Copied, size)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	took := time.Since(begun)
	network, err := measureLoopback()
	if err != nil {
		return err
	}
	x := row{Group: "reseed", Name: fmt.Sprintf("reseed of %d MB with writes, MB", size/1e6), Rate: float64(size) / 1e6 / took.Seconds(), P99: took, Count: 1}
	r.Rows = append(r.Rows, x)
	r.Loopback = network
	fmt.Printf("  %s: %.0f MB/s; loopback alone %.0f MB/s\n", x.Name, x.Rate, network/1e6)
	return nil
}

// fillDatabase delivers mail to the mailboxes of one database until that is as
// large as asked.
func fillDatabase(ctx context.Context, o options, s system) (load.Database, error) {
	list, err := s.lab.Databases(ctx)
	if err != nil {
		return load.Database{}, err
	}
	db, target := list[0], *s.target
	target.Users = slices.DeleteFunc(slices.Clone(target.Users), func(u load.User) bool { return u.Database != db.Name })
	stop := load.Crowd{Target: &target, History: load.NewHistory(), Senders: 64, Sizes: load.Size64K}.Start(ctx)
	defer stop()
	err = s.lab.Wait(ctx, fillPatience, func() error {
		n, err := copied(ctx, s, db.Name, db.Active)
		if err == nil && n < int64(o.reseed)<<20 {
			err = fmt.Errorf("%s has %d MiB of %d", db.Name, n>>20, o.reseed)
		}
		return err
	})
	return db, err
}

func copyRows(ctx context.Context, s system, db string) ([]copyRow, error) {
	var rows []copyRow
	err := s.lab.Command(ctx, &rows, "copy", "status", db)
	return rows, err
}

// copied is how much log the copy of a database on a server has.
func copied(ctx context.Context, s system, db, server string) (int64, error) {
	rows, err := copyRows(ctx, s, db)
	for _, c := range rows {
		if c.Server == server {
			return c.Copied, nil
		}
	}
	return 0, errors.Join(err, fmt.Errorf("%s has no copy on %s", db, server))
}

// measureLoopback sends bytes through one TCP connection on this machine for a
// moment, and tells how many per second.
func measureLoopback() (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf, n, begun := make([]byte, 1<<20), 0, time.Now()
	for time.Since(begun) < time.Second {
		k, err := c.Write(buf)
		if n += k; err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(begun).Seconds(), nil
}
