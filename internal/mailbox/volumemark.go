package mailbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Files that Postern keeps at the top of a volume.
const (
	markName  = ".postern-volume"
	probeName = ".postern-probe"
	// lostFound belongs to the file system.
	lostFound = "lost+found"
)

// volumeMark tells whose disk this is: file .postern-volume at its top.
type volumeMark struct {
	Format   int            `json:"format"`
	Volume   org.VolumeName `json:"volume"`
	Identity string         `json:"identity"`
	Server   org.ServerName `json:"server"`
}

const (
	volumeMarkFormat = 1
	volumeMarkMax    = 4096 // bytes
)

// parseMark reads a mark. old tells that it is the one line of text that
// versions before 1.0 wrote, without an identity.
func parseMark(b []byte) (m volumeMark, old bool, err error) {
	b = bytes.TrimSpace(b)
	if name, ok := bytes.CutPrefix(b, []byte("volume ")); ok {
		if err := org.ValidName(string(name)); err != nil {
			return m, false, fmt.Errorf("mark of a volume: %w", err)
		}
		return volumeMark{Volume: org.VolumeName(name)}, true, nil
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, false, fmt.Errorf("mark of a volume: %w", err)
	}
	switch {
	case m.Format > volumeMarkFormat:
		return m, false, fmt.Errorf("mark of a volume: format %d is newer than this version knows (%d); run the newer version", m.Format, volumeMarkFormat)
	case m.Format < 1 || m.Identity == "" || len(m.Identity) > 64:
		return m, false, fmt.Errorf("mark of a volume: it has no identity")
	}
	return m, false, nil
}

// readMark finds out whose disk is mounted where the volume should be, and
// marks an empty one. want is the identity the group knows, empty when any
// disk of this server, or an empty one, is welcome. The error is a volumeError
// where the disk works and is the wrong one.
func (v *volume) readMark(me org.ServerName, want string) (volumeMark, error) {
	path := filepath.Join(v.Path, markName)
	b, err := fsx.ReadFile(v.fs, path, volumeMarkMax)
	if kind.Is(err, kind.NotFound) {
		return v.unmarked(me, want)
	}
	if err != nil && !kind.Is(err, kind.Invalid) {
		return volumeMark{}, err
	}
	foreign := func(format string, args ...any) error {
		return &volumeError{v.Name, org.CauseForeign, fmt.Sprintf(format, args...)}
	}
	if err != nil {
		return volumeMark{}, foreign("%s cannot be a mark: %v", path, err)
	}
	m, old, err := parseMark(b)
	switch {
	case err != nil:
		return m, foreign("%s: %v", path, err)
	case m.Volume != v.Name:
		return m, foreign("%s is marked as volume %s; is the right disk mounted there?", v.Path, m.Volume)
	case old && want != "":
		return m, foreign("%s has a mark without identity, %s is expected", v.Path, want)
	case old:
		return v.writeMark(me)
	case m.Server != me:
		return m, foreign("%s belongs to server %s", v.Path, m.Server)
	case want != "" && m.Identity != want:
		return m, foreign("%s has identity %s, %s is expected; is the right disk mounted there?", v.Path, m.Identity, want)
	}
	return m, nil
}

// unmarked deals with a volume without a mark: a folder that vanished with
// its disk is not made anew on the disk below it (faults F21).
func (v *volume) unmarked(me org.ServerName, want string) (volumeMark, error) {
	names, err := v.fs.List(v.Path)
	missing := kind.Is(err, kind.NotFound)
	if err != nil && !missing {
		return volumeMark{}, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == lostFound || strings.HasPrefix(n, markName) || n == probeName })
	switch {
	case want != "" && missing:
		return volumeMark{}, &volumeError{v.Name, org.CauseGone, v.Path + " is not there"}
	case want != "" && len(names) == 0:
		return volumeMark{}, &volumeError{v.Name, org.CauseGone, v.Path + " is empty; is the disk mounted?"}
	case len(names) > 0:
		return volumeMark{}, &volumeError{v.Name, org.CauseForeign, v.Path + " holds files and no mark of this volume; is the right disk mounted there?"}
	}
	if err := v.fs.MkdirAll(v.Path); err != nil {
		return volumeMark{}, err
	}
	return v.writeMark(me)
}

// writeMark gives the volume an identity.
func (v *volume) writeMark(me org.ServerName) (volumeMark, error) {
	m := volumeMark{Format: volumeMarkFormat, Volume: v.Name, Identity: uuid.NewString(), Server: me}
	b, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	return m, fsx.WriteFile(v.fs, filepath.Join(v.Path, markName), append(b, '\n'))
}
