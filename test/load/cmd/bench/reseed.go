package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// fillPatience is how long a database may take to become as large as is asked,
// and seedPatience how long its copy may take to come back.
const (
	fillPatience = time.Hour
	seedPatience = time.Hour
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
		Pause: lightPause, SendPause: lightPause}.Start(ctx)
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

// fillDatabase delivers mail until the largest database is as large as asked.
func fillDatabase(ctx context.Context, o options, s system) (load.Database, error) {
	stop := load.Crowd{Target: s.target, History: load.NewHistory(), Senders: 64, Sizes: load.Size64K}.Start(ctx)
	defer stop()
	var found load.Database
	err := s.lab.Wait(ctx, fillPatience, func() error {
		list, err := s.lab.Databases(ctx)
		if err != nil {
			return err
		}
		largest := int64(0)
		for _, d := range list {
			n, err := copied(ctx, s, d.Name, d.Active)
			if err != nil {
				return err
			}
			if n > largest {
				found, largest = d, n
			}
		}
		if largest < int64(o.reseed)<<20 {
			return fmt.Errorf("the largest database has %d MiB of %d", largest>>20, o.reseed)
		}
		return nil
	})
	return found, err
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
