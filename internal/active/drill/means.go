package drill

import (
	"fmt"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// Means are what exercises use besides servers and databases.
type Means struct {
	// Past are the servers whose copies of the database will show what is there now.
	Past []org.ServerName
	// Volume is where the copy is, Spares are the spare volumes of its server.
	Volume org.VolumeName
	Spares []Spare
	// Networks are those of the group.
	Networks []Way
}

// Spare is a spare volume, and what keeps it from getting the copy, empty for
// nothing.
type Spare struct {
	Volume  org.VolumeName
	Problem string
}

// Way is a network, whether it works, and how it is in words.
type Way struct {
	Name  string
	Role  org.NetworkRole
	Works bool
	State string
}

// Equip gives an order what it uses, and says why there is nothing for it. It
// reads nothing but its arguments.
func Equip(o Order, m Means) (Order, []string) {
	switch o.Exercise {
	case Restore:
		if len(m.Past) == 0 {
			return o, []string{fmt.Sprintf("no copy of %s will show what is there now: one with a replay lag does, or one with checkpoints", o.Database)}
		}
	case ReseedSpare:
		return equipSpare(o, m)
	case Network:
		return equipNetwork(o, m)
	}
	return o, nil
}

func equipSpare(o Order, m Means) (Order, []string) {
	o.Volume = m.Volume
	var no []string
	for _, s := range m.Spares {
		if s.Problem == "" {
			o.Spare = s.Volume
			return o, nil
		}
		no = append(no, fmt.Sprintf("the spare %s of %s cannot be used: %s", s.Volume, o.Server, s.Problem))
	}
	if len(no) == 0 {
		no = append(no, fmt.Sprintf("%s has no spare volume", o.Server))
	}
	return o, no
}

// equipNetwork takes the network that is named, or the first that can be missed:
// not that of the clients, which is the last resort.
func equipNetwork(o Order, m Means) (Order, []string) {
	usable := slices.DeleteFunc(slices.Clone(m.Networks), func(w Way) bool { return !w.Works })
	i := slices.IndexFunc(m.Networks, func(w Way) bool { return w.Name == o.Network })
	if o.Network == "" {
		i = slices.IndexFunc(m.Networks, func(w Way) bool { return w.Role != org.RoleClient && slices.Contains(usable, w) })
	}
	switch {
	case len(usable) < 2:
		return o, []string{fmt.Sprintf("log needs another network to go by, and %d work", len(usable))}
	case i < 0 && o.Network != "":
		return o, []string{fmt.Sprintf("there is no network %s", o.Network)}
	case i < 0:
		return o, []string{"no network but that of the clients works"}
	}
	w := m.Networks[i]
	o.Network = w.Name
	switch {
	case w.Role == org.RoleClient:
		return o, []string{fmt.Sprintf("%s is the network of the clients, the last resort", w.Name)}
	case !slices.Contains(usable, w):
		return o, []string{fmt.Sprintf("%s is %s", w.Name, w.State)}
	}
	return o, nil
}
