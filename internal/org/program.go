package org

import "time"

// ProgramSection is the mesh section of Program.
const ProgramSection = "program"

// Program is which version of the program a server runs, and which is installed
// on it: that of the file it would be started from now.
type Program struct {
	Running   string `json:"running" cbor:"1,keyasint"`
	Installed string `json:"installed" cbor:"2,keyasint"`
	// Fault is why the installed file cannot be started, empty where it can. Then
	// Installed is empty.
	Fault string `json:"fault,omitempty" cbor:"3,keyasint,omitempty"`
}

// HostOrder is what the host of a server is asked to do; row orders/<server>. It
// is for one run of the server: after the next start it is history.
type HostOrder struct {
	Do   string    `json:"do"` // OrderReexecute, OrderKillWorker, OrderFreezeWorker
	Boot string    `json:"boot"`
	At   time.Time `json:"at"`
	By   string    `json:"by,omitempty"`
	Plan string    `json:"plan,omitempty"`
	// Step is the number of the plan's step.
	Step int `json:"step"`
}

// OrderReexecute has the host end its workers in order and start the program
// that is installed now in its place.
const OrderReexecute = "re-execute"

// OrderKillWorker has the mail worker end itself without warning, for a drill.
const OrderKillWorker = "kill-worker"

// OrderFreezeWorker has the mail worker stop where it is, for a drill: it neither
// answers nor ends until its host ends it.
const OrderFreezeWorker = "freeze-worker"

// HostOrderKey is the row of what a server's host is asked to do.
func HostOrderKey(s ServerName) string { return "orders/" + string(s) }
