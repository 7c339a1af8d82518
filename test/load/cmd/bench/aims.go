package main

import (
	"fmt"
	"strings"
	"time"
)

// aim is what was wanted and what was measured.
type aim struct {
	What    string `json:"what"`
	Want    string `json:"want"`
	Got     string `json:"got"`
	Reached bool   `json:"reached"`
}

// The aims, as numbers.
const (
	aimRate    = 2.0              // of the peer's rate, SMTP
	aimVisible = 3.0              // of the peer's rate until visible
	aimCPU     = 1.0 / 3          // of the peer's processor time per message
	aimRelay   = 1.5              // of the peer's rate, from the door to the next host
	aimRelCPU  = 0.5              // of the peer's processor time per message relayed
	aimBack    = 2 * time.Second  // until all is visible when a store is back
	aimReady   = 10 * time.Second // with a long queue
	aimQueue   = 1 << 30          // bytes of a server with a long queue
	aimSyncs   = 0.2              // per message and copy at 16 connections
	aimServer  = 200e6            // bytes of an idle server
	aimSession = 40 << 10         // bytes of an idle session
	aimReseed  = 0.7              // of the slower of disk and network
	aimConns   = 64               // connections of the SMTP aims
	aimMove    = 200 * time.Millisecond
	aimMedian  = 1500 * time.Millisecond
	aimWorst   = 4 * time.Second
)

// aims judges what was measured; what was not has no line.
func aims(p, q *results, d disk) []aim {
	var out []aim
	add := func(what, want, got string, reached bool) { out = append(out, aim{what, want, got, reached}) }
	for _, x := range p.Rows {
		y, peer := q.find(x.Name)
		switch {
		case x.Group == "smtp" && x.Scale == 16 && x.Syncs > 0:
			add(x.Name+": syncs per message and copy", "< 0.20", fmt.Sprintf("%.2f", x.Syncs), x.Syncs < aimSyncs)
		case x.Group == "outage":
			add(x.Name, "<= "+short(aimBack), short(x.P99), x.P99 <= aimBack)
		case x.Group == "deferred" && strings.HasPrefix(x.Name, "ready"):
			add(x.Name, "<= "+short(aimReady), short(x.P99), x.P99 <= aimReady)
		case !peer:
		case x.Group == "relay" && x.Scale == aimConns:
			add(x.Name+": rate until it came out", ">= 1.50 times theirs", ratio(x.Visible, y.Visible), x.Visible >= aimRelay*y.Visible)
			add(x.Name+": CPU per message", "<= 0.50 times theirs", ratio(float64(x.CPU), float64(y.CPU)), float64(x.CPU) <= aimRelCPU*float64(y.CPU))
		case x.Group == "smtp" && x.Scale == aimConns:
			add(x.Name+": rate", ">= 2.00 times theirs", ratio(x.Rate, y.Rate), x.Rate >= aimRate*y.Rate)
			add(x.Name+": rate until visible", ">= 3.00 times theirs", ratio(x.Visible, y.Visible), x.Visible >= aimVisible*y.Visible)
			add(x.Name+": CPU per message", "<= 0.33 times theirs", ratio(float64(x.CPU), float64(y.CPU)), float64(x.CPU) <= aimCPU*float64(y.CPU))
		case x.Group == "imap":
			add(x.Name+": rate", ">= 1.00 times theirs", ratio(x.Rate, y.Rate), x.Rate >= y.Rate)
			add(x.Name+": CPU each", "<= 1.00 times theirs", ratio(float64(x.CPU), float64(y.CPU)), x.CPU <= y.CPU)
		}
	}
	out = append(out, reseedAims(p, d)...)
	return append(append(out, pauseAims(p)...), memoryAims(p)...)
}

// reseedAims compares a seed with the slower of disk and network.
func reseedAims(p *results, d disk) (out []aim) {
	slower := min(d.Bandwidth, p.Loopback)
	for _, x := range p.Rows {
		if x.Group == "reseed" && slower > 0 {
			part := x.Rate * 1e6 / slower
			out = append(out, aim{x.Name + ": of the slower of disk and network", ">= 0.70", fmt.Sprintf("%.2f", part), part >= aimReseed})
		}
	}
	return out
}

func pauseAims(p *results) (out []aim) {
	add := func(what string, most, got time.Duration) {
		out = append(out, aim{what, "<= " + short(most), short(got), got <= most})
	}
	for _, x := range p.Pauses {
		if x.Kind == "move" {
			add("pause by a planned move, median", aimMove, x.Median)
			continue
		}
		add("pause by kill -9, median", aimMedian, x.Median)
		add("pause by kill -9, worst", aimWorst, x.Worst)
	}
	for _, x := range p.Pauses {
		out = append(out, aim{"failed commands and connections at survivors, " + x.Kind, "0", fmt.Sprint(x.Failed), x.Failed == 0})
	}
	return out
}

func memoryAims(p *results) (out []aim) {
	for _, m := range p.Memory {
		var most int64
		for _, b := range m.Servers {
			most = max(most, b)
		}
		if strings.Contains(m.Name, deferredAt) {
			out = append(out, aim{"largest server with " + m.Name, "< 1 GiB", size(most), most < aimQueue})
		}
		switch m.Name {
		case idleServer:
			out = append(out, aim{"memory of the largest idle server", "< 200 MB", fmt.Sprintf("%.0f MB", float64(most)/1e6), most < aimServer})
		case idleSession:
			out = append(out, aim{"memory of an idle IMAP session", "< 40 KiB", size(m.total()), m.total() < aimSession})
		}
	}
	return out
}

// size is bytes for people.
func size(n int64) string {
	switch {
	case n < 1<<20 && n > -1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func sizes(list []int64) string {
	var out []string
	for _, n := range list {
		out = append(out, size(n))
	}
	return strings.Join(out, " / ")
}
