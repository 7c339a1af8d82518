package cluster

import (
	"maps"

	"github.com/postern-mail/postern/internal/cluster/view"
)

// NewView makes a view of given rows, for those who keep an agreed state
// without a group: rooms tested alone, and tools that read a backup.
func NewView(revision int64, rows map[string]Item) *View {
	return view.New(revision, maps.All(rows))
}
