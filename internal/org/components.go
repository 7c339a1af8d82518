package org

// ComponentsSection is the mesh section of ServerComponents.
const ComponentsSection = "components"

// ServerComponents is what a server publishes about its components: what it does
// now, so that whoever wrote a wish can wait until it is obeyed.
type ServerComponents struct {
	Components map[Component]ComponentNow `json:"components" cbor:"1,keyasint"`
}

// ComponentNow is what a component of a server does now.
type ComponentNow struct {
	// Wished is the combined state of all entries as the server has read them.
	Wished ComponentState `json:"wished" cbor:"1,keyasint"`
	// State is what it does: it stays weaker than Wished until that is reached.
	State ComponentState `json:"state" cbor:"2,keyasint"`
	// Left is what is still under way in it: connections, messages, databases.
	Left int `json:"left,omitempty" cbor:"3,keyasint,omitempty"`
}

// Reached tells whether the component has reached a state: it holds back as much
// or more and, for Inactive, nothing is under way.
func (n ComponentNow) Reached(s ComponentState) bool {
	return n.State.strength() >= s.strength()
}
