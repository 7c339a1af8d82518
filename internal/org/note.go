package org

import "time"

// Note is what a room did by itself, because it had to: what the recovery log
// says of it. Notes of one action about one target that come close together are
// one entry.
type Note struct {
	Action    string // such as RepairCopy
	Target    string // what it was about: a database, a server, a volume
	Responder string // the part of the program that did it
	Cause     string
	Evidence  []RecoveryEvidence // what was seen; of its entries At may be zero: now
	Result    string             // what came of it
	Refused   string             // why it was not done
	Failed    bool
	// Every is the least time between two entries of the same action and target;
	// 0 for a minute.
	Every time.Duration
}
