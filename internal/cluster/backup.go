package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/view"
	"github.com/postern-mail/postern/internal/org"
)

// A backup of the group state is one file:
//
//	"POSTBACK"  8 bytes
//	version     4 bytes, big endian
//	CBOR        of backupBody
//	SHA-256     32 bytes, of all before
//
// It holds the group key, with which anybody can speak as a server of the
// group: whoever writes it to a file makes that 0600.
const (
	backupMagic   = "POSTBACK"
	backupVersion = 1
	maxBackup     = 1 << 30
)

type backupBody struct {
	Group    string    `cbor:"1,keyasint"`
	Created  time.Time `cbor:"2,keyasint"`
	Revision int64     `cbor:"3,keyasint"`
	Stale    bool      `cbor:"4,keyasint"`
	GroupKey []byte    `cbor:"5,keyasint"`
	View     []byte    `cbor:"6,keyasint"`
}

// BackupInfo tells what a backup holds.
type BackupInfo struct {
	Group    string    `json:"group" col:"GROUP"`
	Created  time.Time `json:"created" col:"CREATED"`
	Revision int64     `json:"revision" col:"REVISION"`
	Keys     int       `json:"keys" col:"KEYS"`
	// Stale: there was no quorum; it is what this server last saw.
	Stale bool `json:"stale" col:"STALE"`
}

// Backup writes the group state, all of one revision. Without quorum it
// writes what this server last saw, and says so in the answer.
func (c *Cluster) Backup(ctx context.Context, w io.Writer) (BackupInfo, error) {
	err := c.Sync(ctx)
	if err != nil && !kind.Is(err, kind.Busy) {
		return BackupInfo{}, err
	}
	v := c.View()
	if _, ok := v.Get(keyCAKey); !ok {
		return BackupInfo{}, kind.Errorf(kind.Busy, "backup: the group state is not known here yet")
	}
	body := backupBody{
		Group: c.self.Group, Created: time.Now().UTC(), Revision: v.Revision(), Stale: err != nil,
		GroupKey: c.groupKey, View: view.Encode(c.self.Group, v),
	}
	b := binary.BigEndian.AppendUint32([]byte(backupMagic), backupVersion)
	b = append(b, codec.MustMarshal(body)...)
	sum := sha256.Sum256(b)
	if _, err := w.Write(append(b, sum[:]...)); err != nil {
		return BackupInfo{}, &kind.Error{Kind: kind.Internal, Text: "backup", Err: err}
	}
	return BackupInfo{body.Group, body.Created, body.Revision, v.Len(), body.Stale}, nil
}

// readBackup checks and decodes a backup.
func readBackup(r io.Reader) (body backupBody, v *View, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBackup+1))
	if err != nil {
		return body, nil, &kind.Error{Kind: kind.Internal, Text: "read backup", Err: err}
	}
	const head = len(backupMagic) + 4
	if len(b) > maxBackup || len(b) < head+sha256.Size || string(b[:len(backupMagic)]) != backupMagic {
		return body, nil, kind.Errorf(kind.Invalid, "read backup: this is not a backup of a group")
	}
	if ver := binary.BigEndian.Uint32(b[len(backupMagic):]); ver != backupVersion {
		return body, nil, kind.Errorf(kind.Invalid, "read backup: format version %d, this program reads %d", ver, backupVersion)
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return body, nil, kind.Errorf(kind.Corrupt, "read backup: the checksum is wrong")
	}
	if err := codec.Unmarshal(b[head:end], &body); err != nil {
		return body, nil, kind.Errorf(kind.Corrupt, "read backup: %w", err)
	}
	group, v, err := view.Decode(body.View)
	if err != nil {
		return body, nil, err
	}
	if _, ok := v.Get(keyGroup); !ok || group != body.Group || len(body.GroupKey) != ca.GroupKeySize {
		return body, nil, kind.Errorf(kind.Corrupt, "read backup: it is not complete")
	}
	return body, v, nil
}

// InspectBackup tells what a backup holds without restoring it.
func InspectBackup(r io.Reader) (BackupInfo, error) {
	body, v, err := readBackup(r)
	if err != nil {
		return BackupInfo{}, err
	}
	return BackupInfo{body.Group, body.Created, body.Revision, v.Len(), body.Stale}, nil
}

// ReadBackup gives the rows that a backup holds, for programs that compare them
// or look into them. Errors are those of InspectBackup.
func ReadBackup(r io.Reader) (*View, error) {
	_, v, err := readBackup(r)
	return v, err
}

// RestoreOptions say which server begins the restored group.
type RestoreOptions struct {
	Dir     string
	Name    org.ServerName
	Site    org.SiteName // empty: as in the backup, if the server is in it
	Addr    string
	Version string
	Volumes []org.VolumeName
	// External: the agreed state is in an (empty) etcd that the user runs.
	External        bool
	CertificateLife time.Duration // 0 = 90 days
}

// termStep is added to every database's term: the group may have gone on for
// some terms after the backup, and copies on disk know them.
const termStep = 1 << 20

// Restore makes a data folder of a group of one from a backup. All other
// servers have to join again (with new folders for their cluster data; their
// databases stay where they are); their old certificates are refused.
// Databases come back dismounted, under a term that none of their copies has
// seen.
func Restore(_ context.Context, o RestoreOptions, r io.Reader) (BackupInfo, error) {
	if err := checkServer(o.Name, o.Site, o.Addr); err != nil {
		return BackupInfo{}, err
	}
	body, v, err := readBackup(r)
	if err != nil {
		return BackupInfo{}, err
	}
	authority, err := authorityOf(v, body.GroupKey)
	if err != nil {
		return BackupInfo{}, err
	}
	lock, err := newFolder(o.Dir)
	if err != nil {
		return BackupInfo{}, err
	}
	defer lock.Close()
	info := BackupInfo{body.Group, body.Created, body.Revision, v.Len(), body.Stale}
	f := founding{group: body.Group, authority: authority, key: body.GroupKey, row: restoredRow(v, o), rows: restoredRows(v), life: o.CertificateLife}
	return info, found(o.Dir, f)
}

// authorityOf opens the CA of a backup.
func authorityOf(v *View, groupKey []byte) (*ca.Authority, error) {
	der, ok := v.Get(keyCACert)
	sealed, ok2 := v.Get(keyCAKey)
	if !ok || !ok2 {
		return nil, kind.Errorf(kind.Corrupt, "read backup: it holds no ca")
	}
	cert, err := parseCA(der.Value)
	if err != nil {
		return nil, err
	}
	return ca.Open(cert, sealed.Value, groupKey)
}

// restoredRow is the row of the server that begins the restored group.
func restoredRow(v *View, o RestoreOptions) org.Server {
	row := org.Server(newRow(o.Name, o.Site, o.Addr, o.Version, o.Volumes))
	if old, ok := v.Server(o.Name); ok {
		if row.Site == "" {
			row.Site = old.Site
		}
		row.ActivationPolicy, row.AutoDatabaseMountDial = old.ActivationPolicy, old.AutoDatabaseMountDial
		row.MaximumActive, row.MaximumPreferredActive = old.MaximumActive, old.MaximumPreferredActive
	}
	if !o.External {
		r := serverRow(row)
		r.vote()
		row = org.Server(r)
	}
	return row
}

// restoredRows are the rows that live on: all but servers, leases, tokens and
// who is active.
func restoredRows(v *View) map[string][]byte {
	rows := map[string][]byte{}
	for k, it := range v.Prefix("") {
		dir, _, _ := strings.Cut(k, "/")
		switch dir + "/" {
		case dirServers, dirLive, dirTokens, dirLeaving, "active/", "mounts/":
		default:
			rows[k] = it.Value
		}
	}
	for _, s := range v.Servers() {
		t := tombstone(s)
		rows[t.Key] = t.Value
	}
	for _, m := range v.Mounts() {
		m.Term += termStep
		m.Active, m.Since, m.Why = "", time.Now().UTC(), "group state restored from a backup"
		rows["mounts/"+string(m.Database)] = mustJSON(m)
	}
	return rows
}
