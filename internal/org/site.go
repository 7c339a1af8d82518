package org

import "time"

// Site is what people decided about a place; row sites/<name>. A site without a
// row is started.
type Site struct {
	Name  SiteName  `json:"name"`
	State SiteState `json:"state"`
	Since time.Time `json:"since"`
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by,omitempty"`
	// Allowed are the runs of servers (Boot by name) that a person let lead
	// without hearing from the others.
	Allowed map[ServerName]string `json:"allowed,omitempty"`
}

// SiteState tells whether servers of a site may have active databases.
type SiteState string

// Site states.
const (
	SiteStarted SiteState = "started"
	SiteStopped SiteState = "stopped"
)

// SitePrefix is what the rows of sites begin with.
const SitePrefix = "sites/"

// GenerationKey is the row of the group's generation; absent: the first.
const GenerationKey = "group/generation"

// Generation counts the forced activations of a group. A server of an older one
// may not lead: the others went on without it.
type Generation struct {
	Generation int64     `json:"generation"`
	At         time.Time `json:"at"`
	By         string    `json:"by,omitempty"`
	Why        string    `json:"why,omitempty"`
	Site       SiteName  `json:"site"` // that was activated
	// GivenUp are the servers that were left behind, with the identities under
	// which nobody speaks with them any more.
	GivenUp map[ServerName]string `json:"given_up"`
}

// ActivationSection is the mesh section of ServerActivation.
const ActivationSection = "dac"

// ServerActivation is what a server tells of its permission to lead.
type ServerActivation struct {
	Generation int64 `cbor:"1,keyasint"`
	// Bit tells that it may have active databases and the primary role.
	Bit bool   `cbor:"2,keyasint"`
	Why string `cbor:"3,keyasint,omitempty"`
	// Hears are the other members it hears, by name.
	Hears []ServerName `cbor:"4,keyasint,omitempty"`
	// Quorum tells that the agreed state answers it; while it does not, Revision
	// is the newest it knows.
	Quorum   bool  `cbor:"5,keyasint"`
	Revision int64 `cbor:"6,keyasint,omitempty"`
}

// Left tells whether a server was given up, and is not one that joined since.
func (g Generation) Left(s Server) bool {
	id, ok := g.GivenUp[s.Name]
	return ok && id == s.Identity
}
