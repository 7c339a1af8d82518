package org

import "time"

// QueueRow is the agreed state of the queue of a server: who owns the messages
// it accepted. It changes by compare and swap only, and outlives the server's
// removal.
type QueueRow struct {
	Server   ServerName `json:"server"`
	Identity string     `json:"identity"` // of the queue; one that was begun anew has another
	// Epoch is the present one. It only grows, also over a new identity.
	Epoch uint64 `json:"epoch"`
	// TakenUpTo is the epoch up to which messages belong to whoever holds
	// copies of them.
	TakenUpTo uint64     `json:"taken_up_to,omitempty"`
	TakenBy   ServerName `json:"taken_by,omitempty"` // who wrote TakenUpTo
	TakenAt   time.Time  `json:"taken_at,omitzero"`
	Why       string     `json:"why,omitempty"` // it was taken
	Since     time.Time  `json:"since"`         // of the epoch
}

// Fenced tells that the server may deliver nothing of what it has accepted so
// far.
func (r QueueRow) Fenced() bool { return r.TakenUpTo >= r.Epoch }

// QueuePrefix is what the keys of queue rows begin with.
const QueuePrefix = "queues/"

// QueueKey is the key of a server's queue row.
func QueueKey(s ServerName) string { return QueuePrefix + string(s) }
