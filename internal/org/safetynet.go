package org

import "time"

// SafetyNetRequest asks all servers to deliver again what they kept of the
// mail of a database. It is a row of the agreed state (safetynet/<id>), written
// by Active Manager together with a lossy mount, or by an administrator.
type SafetyNetRequest struct {
	ID       string       `json:"id"` // sorts by time
	Database DatabaseName `json:"database"`
	// From and To limit when the mail was delivered, both included. The
	// servers reach a margin beyond them, as clocks differ.
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Why     string    `json:"why,omitempty"`
	By      string    `json:"by,omitempty"` // who asked; empty: Active Manager
	Created time.Time `json:"created"`
	// Conditions and ResubmitTo are for requests by hand.
	Conditions SafetyNetConditions `json:"conditions,omitzero"`
	// ResubmitTo is a mailbox that gets the mail instead of those it was for.
	ResubmitTo string `json:"resubmit_to,omitempty"` // address
	// Disabled holds the request where it is.
	Disabled bool `json:"disabled,omitempty"`
	// Expires is when the row may be removed.
	Expires time.Time `json:"expires,omitzero"`
}

// SafetyNetConditions narrow a request. All that are there have to hold; texts
// are compared whole and without case.
type SafetyNetConditions struct {
	Sender    string `json:"sender,omitempty"`     // of the envelope
	Recipient string `json:"recipient,omitempty"`  // of the envelope
	MessageID string `json:"message_id,omitempty"` // with its angle brackets
}

// The states of a part of a request.
const (
	SafetyNetRunning   = "Running"
	SafetyNetCompleted = "Completed"
	SafetyNetFailed    = "Failed"
)

// SafetyNetPart is what one server did for a request
// (safetynet/<id>/<server>, or safetynet/<id>/<server>/<for>). Only that server
// writes it.
type SafetyNetPart struct {
	Server ServerName `json:"server"`
	// For is the server whose messages these were, held here as copies;
	// empty: the server's own.
	For ServerName `json:"for,omitempty"`
	// Except is set where the server whose messages these were may have lost a
	// queue since the interval began, to the identity of the one it has now. Its
	// own part counts only for that queue, those of others only for former ones.
	Except     string    `json:"except,omitempty"`
	State      string    `json:"state"`
	Found      int       `json:"found"`
	Delivered  int       `json:"delivered"`
	Duplicates int       `json:"duplicates"`
	Failed     int       `json:"failed"`
	Updated    time.Time `json:"updated"`
	Error      string    `json:"error,omitempty"`
}
