package org

import (
	"encoding/json"
	"time"
)

// VolumeState is what a disk of a server is for. The zero value means data.
type VolumeState string

// Volume states.
const (
	VolumeData    VolumeState = "data"    // holds copies
	VolumeSpare   VolumeState = "spare"   // empty, waits to take the place of one that fails
	VolumeSuspect VolumeState = "suspect" // failed once while it was a spare in use
	VolumeFailed  VolumeState = "failed"  // a spare took its place; nothing is put on it
	VolumeRetired VolumeState = "retired" // not to be used again
)

// VolumeRow is what the group knows of a disk; row volumes/<server>/<volume>.
type VolumeRow struct {
	Server ServerName `json:"server"`
	Volume VolumeName `json:"volume"`
	// Identity is the one in the volume's mark; empty where the server is to
	// accept the disk it finds.
	Identity string `json:"identity,omitempty"`
	// Member is the identity of the server that wrote it: a server made anew
	// under the name has other disks.
	Member string      `json:"member,omitempty"`
	State  VolumeState `json:"state"`
	Since  time.Time   `json:"since"`
	Why    string      `json:"why,omitempty"`
	Size   int64       `json:"size,omitempty"` // bytes
	// Trial is the drill for which it holds a copy, and, once it is a spare
	// again, for which its server is to empty it.
	Trial string `json:"trial,omitempty"`
	// TrialOf tells what that drill did with it.
	TrialOf VolumeTrial `json:"trial_of,omitzero"`
	// FailedAt are the moments it failed, the newest 8.
	FailedAt []time.Time `json:"failed_at,omitempty"`
}

// VolumeTrial is what a drill did with a spare: from when on it holds a copy of
// a database, which is on Home otherwise.
type VolumeTrial struct {
	Database DatabaseName `json:"database,omitempty"`
	Identity string       `json:"identity,omitempty"` // of the database
	Home     VolumeName   `json:"home,omitempty"`
	Begun    time.Time    `json:"begun,omitzero"`
}

// Take is for whoever decides what a volume is for: no drill has a say in it any
// more.
func (v *VolumeRow) Take() { v.Trial, v.TrialOf = "", VolumeTrial{} }

// VolumePrefix is what the rows of volumes begin with.
const VolumePrefix = "volumes/"

// VolumeKey is the key of a volume's row.
func VolumeKey(s ServerName, v VolumeName) string { return VolumePrefix + string(s) + "/" + string(v) }

// Failures counts the failures since a moment.
func (v VolumeRow) Failures(since time.Time) int {
	n := 0
	for _, at := range v.FailedAt {
		if at.After(since) {
			n++
		}
	}
	return n
}

// ParseVolume reads a row.
func ParseVolume(b []byte) (VolumeRow, error) {
	var v VolumeRow
	err := json.Unmarshal(b, &v)
	return v, err
}

// ReseedStage is how far AutoReseed is with a volume.
type ReseedStage string

// Stages of AutoReseed.
const (
	ReseedIdle     ReseedStage = ""
	ReseedWatch    ReseedStage = "Watch"    // waits whether it ends by itself
	ReseedResume   ReseedStage = "Resume"   // tries the copies again
	ReseedPreCheck ReseedStage = "PreCheck" // looks whether it may seed
	ReseedSpare    ReseedStage = "Spare"    // looks for a spare volume
	ReseedInPlace  ReseedStage = "InPlace"  // seeds on the same volume
	ReseedSeed     ReseedStage = "Seed"     // the copies are being seeded
	ReseedVerify   ReseedStage = "Verify"   // the copies have to stay healthy
	ReseedBlocked  ReseedStage = "Blocked"  // needs a person, or a new disk
	ReseedDone     ReseedStage = "Done"
)

// StepNote is one step of a workflow in words.
type StepNote struct {
	At    time.Time   `json:"at"`
	Stage ReseedStage `json:"stage"`
	Text  string      `json:"text"`
}

// Reseed is AutoReseed's work on one volume; row reseed/<server>/<volume>.
type Reseed struct {
	Server    ServerName                  `json:"server"`
	Volume    VolumeName                  `json:"volume"`
	Spare     VolumeName                  `json:"spare,omitempty"` // where the copies are now, when a spare was assigned
	Stage     ReseedStage                 `json:"stage"`
	Databases []DatabaseName              `json:"databases,omitempty"`
	Begun     time.Time                   `json:"begun"`
	Since     time.Time                   `json:"since"`         // of the stage
	Next      time.Time                   `json:"next,omitzero"` // when the stage acts again
	Tries     map[ReseedStage]int         `json:"tries,omitempty"`
	Cause     string                      `json:"cause,omitempty"` // class of the failure
	Why       string                      `json:"why,omitempty"`   // what it waits for
	Error     string                      `json:"error,omitempty"` // of the last try
	Sources   map[DatabaseName]ServerName `json:"sources,omitempty"`
	Steps     []StepNote                  `json:"steps,omitempty"` // the newest 50
	// Retry is set by an administrator: the stage acts at once. Cancelled holds
	// the work back until it is retried.
	Retry     bool   `json:"retry,omitempty"`
	Cancelled string `json:"cancelled,omitempty"`
}

// ReseedPrefix is what the rows of AutoReseed begin with.
const ReseedPrefix = "reseed/"

// ReseedKey is the key of AutoReseed's row for a volume.
func ReseedKey(s ServerName, v VolumeName) string { return ReseedPrefix + string(s) + "/" + string(v) }

// Note adds a step and keeps the newest 50.
func (r *Reseed) Note(at time.Time, text string) {
	r.Steps = append(r.Steps, StepNote{At: at, Stage: r.Stage, Text: text})
	if n := len(r.Steps); n > 50 {
		r.Steps = r.Steps[n-50:]
	}
}

// ParseReseed reads a row.
func ParseReseed(b []byte) (Reseed, error) {
	var r Reseed
	err := json.Unmarshal(b, &r)
	return r, err
}
