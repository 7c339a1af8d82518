package org

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// ServerName names a member of the group, for example "MBX1".
type ServerName string

// SiteName names a place with its own power and network.
type SiteName string

// DatabaseName names a mailbox database, for example "DB01".
type DatabaseName string

// VolumeName names a disk of a server that holds database copies.
type VolumeName string

// OrganizationID is the stable identity of a tenant.
type OrganizationID string

// Term counts the changes of who is active for a database. Everything a copy
// sends carries it; a copy refuses what comes with an older one.
type Term uint64

// LSN is a position in a database's log: a byte offset in one endless stream
// that has the same bytes at the same position on every copy.
type LSN uint64

// GenerationSize is the nominal size of a log generation in bytes
// (Exchange: 1 MiB log files).
const GenerationSize = 1 << 20

// Generation tells the log generation that holds the position.
func (l LSN) Generation() uint64 { return uint64(l) / GenerationSize }

// Generations counts the log generations between two positions, rounded up:
// one byte missing is one log behind.
func Generations(from, to LSN) uint64 {
	if to <= from {
		return 0
	}
	return (uint64(to-from) + GenerationSize - 1) / GenerationSize
}

// MailboxID is the stable identity of a mailbox.
type MailboxID [16]byte

// NewMailboxID makes a random identity.
func NewMailboxID() MailboxID {
	var id MailboxID
	rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

func (id MailboxID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id MailboxID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *MailboxID) UnmarshalText(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("mailbox id %q: want 32 hex digits", b)
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// MailboxRef tells which mailbox and where it lives. Owner is only for logs.
type MailboxRef struct {
	ID       MailboxID    `json:"id" cbor:"1,keyasint"`
	Database DatabaseName `json:"database" cbor:"2,keyasint"`
}

// Server is a member of the group, as kept in the agreed state.
type Server struct {
	Name     ServerName `json:"name"`
	Identity string     `json:"identity"` // random, made at init or join; a wiped server that returns has another
	Site     SiteName   `json:"site,omitempty"`
	Witness  bool       `json:"witness,omitempty"` // votes, holds no mailboxes
	Voter    bool       `json:"voter,omitempty"`   // runs an etcd member
	// Alternate is a witness that begins to vote when no other witness does.
	Alternate bool `json:"alternate,omitempty"`
	// ClusterAddr is host:port for all traffic between servers.
	ClusterAddr string `json:"cluster_addr"`
	// PeerURL and ClientURL are etcd's, empty where it does not vote.
	PeerURL string       `json:"peer_url,omitempty"`
	Volumes []VolumeName `json:"volumes,omitempty"`
	Version string       `json:"version,omitempty"`
	Joined  time.Time    `json:"joined"`
	// Interfaces are its addresses in all of its networks, empty where it has
	// but ClusterAddr.
	Interfaces []Interface `json:"interfaces,omitempty"`

	ActivationPolicy       ActivationPolicy `json:"activation_policy,omitempty"`
	MaximumActive          int              `json:"maximum_active_databases,omitempty"`           // hard, 0 = none
	MaximumPreferredActive int              `json:"maximum_preferred_active_databases,omitempty"` // soft, 0 = none
	AutoDatabaseMountDial  MountDial        `json:"auto_database_mount_dial,omitempty"`
}

// ActivationPolicy says whether copies on a server may be activated by the
// system (Exchange: DatabaseCopyAutoActivationPolicy).
type ActivationPolicy string

// Activation policies. The zero value means Unrestricted.
const (
	ActivationUnrestricted ActivationPolicy = "Unrestricted"
	ActivationIntrasite    ActivationPolicy = "IntrasiteOnly"
	ActivationBlocked      ActivationPolicy = "Blocked"
)

// MountDial says how many log generations may be missing in a mount that the
// system does by itself (Exchange: AutoDatabaseMountDial). The zero value
// means Lossless: a lossy mount happens only where somebody asked for it.
type MountDial string

// Mount dials.
const (
	DialLossless         MountDial = "Lossless"
	DialGoodAvailability MountDial = "GoodAvailability" // up to 6 generations
	DialBestAvailability MountDial = "BestAvailability" // up to 12 generations
	DialBestEffort       MountDial = "BestEffort"       // any loss; only for a manual move
)

// MissingAllowed tells how many log generations the dial accepts to lose.
func (d MountDial) MissingAllowed() uint64 {
	switch d {
	case DialGoodAvailability:
		return 6
	case DialBestAvailability:
		return 12
	case DialBestEffort:
		return 1 << 62
	}
	return 0
}

// Redundancy says when a database confirms changes.
type Redundancy string

// Redundancy policies. The zero value means TwoWhilePossible.
const (
	// TwoWhilePossible does not go on with one copy as long as another copy's
	// server is a live member that can store. Once alone it stays so until
	// another copy has caught up (docs/decisions/0011).
	TwoWhilePossible Redundancy = "two-while-possible"
	// AlwaysTwo answers with a temporary error instead of going on alone.
	AlwaysTwo Redundancy = "always-two"
)

// Database is the definition of a mailbox database in the agreed state. Who
// is active is kept apart, in Mount.
type Database struct {
	Name        DatabaseName `json:"name"`
	Identity    string       `json:"identity"` // random; a database made anew under an old name has another
	Copies      []Copy       `json:"copies"`
	Redundancy  Redundancy   `json:"redundancy,omitempty"`
	SegmentSize int64        `json:"segment_size,omitempty"` // bytes, 0 = default
	Dismounted  bool         `json:"dismounted,omitempty"`   // an administrator took it offline
	Created     time.Time    `json:"created"`
	// MinimumCopies is how many copies stay in sync when a server is taken out, 0
	// for MinimumCopies.
	MinimumCopies int `json:"minimum_copies,omitempty"`
	// Removing is set while an administrator removes it; no mailbox is added.
	Removing bool `json:"removing,omitempty"`
}

// MinimumCopies is how many copies of a database stay in sync when a server is
// taken out, where nothing else is said.
const MinimumCopies = 2

// KeptInSync is how many copies of the database have to stay in sync.
func (d Database) KeptInSync() int { return cmp.Or(d.MinimumCopies, MinimumCopies) }

// Copy is one instance of a database on one server.
type Copy struct {
	Server     ServerName `json:"server"`
	Volume     VolumeName `json:"volume,omitempty"`
	Preference int        `json:"activation_preference"` // 1 = most preferred

	Suspended           bool   `json:"suspended,omitempty"` // takes no log
	ActivationSuspended bool   `json:"activation_suspended,omitempty"`
	SuspendComment      string `json:"suspend_comment,omitempty"`
	// SeedFrom names the copy to seed from, empty for the active one.
	SeedFrom ServerName `json:"seed_from,omitempty"`
	// SeedRate limits a seed in bytes per second, 0 = no limit.
	SeedRate int64 `json:"seed_rate,omitempty"`
	// SeedNetwork is the network a seed comes by while it works there, empty
	// for the one preferred for replication.
	SeedNetwork string `json:"seed_network,omitempty"`
	// SeedCount grows by one each time an administrator orders a reseed from
	// nothing.
	SeedCount int `json:"seed_count,omitempty"`
	// SeedManual leaves the copy suspended when its seed is done.
	SeedManual bool `json:"seed_manual,omitempty"`
	// SuspendedBy tells which part of the system suspended the copy, empty for
	// an administrator.
	SuspendedBy string `json:"suspended_by,omitempty"`
	// NoAutoReseed keeps AutoReseed off the copy.
	NoAutoReseed bool `json:"no_auto_reseed,omitempty"`
	// ReplayLag is how old log has to be before the copy replays it, 0 for at
	// once; TruncationLag how much longer it keeps what was removed.
	ReplayLag     time.Duration `json:"replay_lag,omitempty"`
	TruncationLag time.Duration `json:"truncation_lag,omitempty"`
	// LagBeyondHold tells that an administrator wants the lag although Safety
	// Net keeps mail for less: the copy is there to look back, not to be
	// activated without its log.
	LagBeyondHold bool `json:"lag_beyond_hold,omitempty"`
}

// LongestLag is the longest replay lag that Safety Net has to cover, 0 for none.
func LongestLag(all []Database) (longest time.Duration) {
	for _, d := range all {
		for _, c := range d.Copies {
			if !c.LagBeyondHold {
				longest = max(longest, c.ReplayLag)
			}
		}
	}
	return longest
}

// ByAutoReseed is the SuspendedBy of a copy that AutoReseed suspended.
const ByAutoReseed = "autoreseed"

// Copy returns the copy on the server.
func (d Database) Copy(s ServerName) (Copy, bool) {
	i := slices.IndexFunc(d.Copies, func(c Copy) bool { return c.Server == s })
	if i < 0 {
		return Copy{}, false
	}
	return d.Copies[i], true
}

// Mount says who is active for a database. It changes only by compare and
// swap: by Active Manager, or, for the in-sync set, by the active itself.
type Mount struct {
	Database DatabaseName `json:"database"`
	Term     Term         `json:"term"`
	Active   ServerName   `json:"active"` // empty: dismounted
	// InSync are the servers whose copies hold everything confirmed. The
	// active confirms a change when all of them have it on stable storage.
	InSync []ServerName `json:"in_sync"`
	// AloneSince is the position from which changes were confirmed on one
	// copy only, with the time it began; nil when at least two hold all.
	AloneSince *AloneMark `json:"alone_since,omitempty"`
	// Lossy is set by a mount that may have lost the end of the log and kept
	// until the missing interval was asked for again.
	Lossy *LossyMark `json:"lossy,omitempty"`
	// Begun tells that records were written: from then on a copy without a
	// log is one that lost it.
	Begun bool `json:"begun,omitempty"`
	// Handed tells that the former active stopped before this term began, so
	// that nobody has to wait for its lease to end.
	Handed bool `json:"handed,omitempty"`
	// Thaws counts the handovers that the active copy took back: whoever asked
	// for one and finds it grown since may not write Handed, as it serves again.
	Thaws int64     `json:"thaws,omitempty"`
	Since time.Time `json:"since"`
	Why   string    `json:"why,omitempty"`
	// Revision is the agreed state's, for compare and swap; not stored.
	Revision int64 `json:"-"`
}

// AloneMark is where a database began to confirm changes on one copy.
type AloneMark struct {
	LSN  LSN       `json:"lsn"`
	Time time.Time `json:"time"`
}

// LossyMark records a lossy mount: what the former active may have held
// beyond From is not in this history.
type LossyMark struct {
	Former ServerName `json:"former"`
	From   LSN        `json:"from"`
	Time   time.Time  `json:"time"`
	// Since is when what may be missing began to be delivered, and Request the
	// Safety Net request that asks for it; empty where nobody was asked.
	Since   time.Time `json:"since,omitzero"`
	Request string    `json:"request,omitempty"`
}

// IsInSync tells whether the server is a member of the in-sync set.
func (m Mount) IsInSync(s ServerName) bool { return slices.Contains(m.InSync, s) }

// CopyState is the status of a copy (Exchange: Get-MailboxDatabaseCopyStatus).
type CopyState string

// Copy states.
const (
	CopyMounted                        CopyState = "Mounted"
	CopyMounting                       CopyState = "Mounting"
	CopyDismounted                     CopyState = "Dismounted"
	CopyDismounting                    CopyState = "Dismounting"
	CopyHealthy                        CopyState = "Healthy"
	CopyInitializing                   CopyState = "Initializing"
	CopyResynchronizing                CopyState = "Resynchronizing"
	CopySeeding                        CopyState = "Seeding"
	CopySuspended                      CopyState = "Suspended"
	CopyFailed                         CopyState = "Failed"
	CopyFailedAndSuspended             CopyState = "FailedAndSuspended"
	CopyDisconnectedAndHealthy         CopyState = "DisconnectedAndHealthy"
	CopyDisconnectedAndResynchronizing CopyState = "DisconnectedAndResynchronizing"
	CopySinglePageRestore              CopyState = "SinglePageRestore"
	CopyServiceDown                    CopyState = "ServiceDown"
)

// CopyStatus is what a server reports of one of its copies.
type CopyStatus struct {
	Database DatabaseName `json:"database" cbor:"1,keyasint"`
	Server   ServerName   `json:"server" cbor:"2,keyasint"`
	State    CopyState    `json:"state" cbor:"3,keyasint"`
	Reason   string       `json:"reason,omitempty" cbor:"4,keyasint,omitempty"`
	Term     Term         `json:"term" cbor:"5,keyasint"`
	// Generated is the end of the active's log as this copy last heard it,
	// Copied what is durable here, Committed what is known confirmed, Replayed what
	// the index has applied.
	Generated LSN  `json:"log_generated" cbor:"6,keyasint"`
	Copied    LSN  `json:"log_copied" cbor:"7,keyasint"`
	Committed LSN  `json:"log_committed" cbor:"8,keyasint"`
	Replayed  LSN  `json:"log_replayed" cbor:"9,keyasint"`
	InSync    bool `json:"in_sync" cbor:"10,keyasint"`
	// SeedTotal and SeedDone are bytes; zero when no seed is under way.
	SeedTotal  int64      `json:"seed_total,omitempty" cbor:"11,keyasint,omitempty"`
	SeedDone   int64      `json:"seed_done,omitempty" cbor:"12,keyasint,omitempty"`
	SeedSource ServerName `json:"seed_source,omitempty" cbor:"13,keyasint,omitempty"`
	Repairs    uint64     `json:"repairs,omitempty" cbor:"14,keyasint,omitempty"` // damaged ranges mended from another copy
	VolumeFull bool       `json:"volume_full,omitempty" cbor:"15,keyasint,omitempty"`
	DiskUsed   int64      `json:"disk_used,omitempty" cbor:"16,keyasint,omitempty"` // bytes on disk of log and index
	// LastTime is when the newest record that was replayed here was written,
	// Unix nanoseconds; 0 where that is not known. What was copied and not
	// replayed is newer.
	LastTime int64 `json:"last_time,omitempty" cbor:"17,keyasint,omitempty"`
	// ContentIndex is the state of the search index; empty, from a version that
	// does not report it, counts as Healthy.
	ContentIndex IndexState `json:"content_index,omitempty" cbor:"18,keyasint,omitempty"`
	// RateIn is how fast a seed comes in, bytes per second over the last seconds.
	RateIn int64 `json:"rate_in,omitempty" cbor:"20,keyasint,omitempty"`
	// Network is where its log comes by, empty where there is one way only.
	Network string `json:"network,omitempty" cbor:"21,keyasint,omitempty"`
	// Volume is where the copy is now, Cause the class of what it failed of, and
	// Since when it came into its state, Unix nanoseconds.
	Volume VolumeName `json:"volume,omitempty" cbor:"24,keyasint,omitempty"`
	Cause  string     `json:"cause,omitempty" cbor:"25,keyasint,omitempty"`
	Since  int64      `json:"since,omitempty" cbor:"26,keyasint,omitempty"`
	// SeedCount is the last ordered seed that was begun.
	SeedCount int `json:"seed_count,omitempty" cbor:"27,keyasint,omitempty"`
	// ReplayLag is the lag that is set, ReplayLagNow how far back the index can
	// show the mailboxes now, and ReplayLagWhy why these differ.
	ReplayLag    time.Duration `json:"replay_lag,omitempty" cbor:"28,keyasint,omitempty"`
	ReplayLagNow time.Duration `json:"replay_lag_now,omitempty" cbor:"29,keyasint,omitempty"`
	ReplayLagWhy string        `json:"replay_lag_why,omitempty" cbor:"30,keyasint,omitempty"`
}

// IndexState is the state of a copy's search index (Exchange: ContentIndexState).
type IndexState string

// Index states.
const (
	IndexHealthy  IndexState = "Healthy"
	IndexCrawling IndexState = "Crawling" // being made anew from the log
	IndexFailed   IndexState = "Failed"
	IndexDisabled IndexState = "Disabled"
)

// CopyQueueLength is the number of log generations the copy has not received.
func (s CopyStatus) CopyQueueLength() uint64 { return Generations(s.Copied, s.Generated) }

// ReplayQueueLength is the number of log generations received and not replayed.
func (s CopyStatus) ReplayQueueLength() uint64 { return Generations(s.Replayed, s.Copied) }

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// ValidName reports whether s may name a server, site, volume or database:
// it becomes a path element, a key and a DNS label.
func ValidName(s string) error {
	if !nameRE.MatchString(s) {
		return fmt.Errorf("name %q: want 1 to 63 of A-Z a-z 0-9 _ -, beginning with a letter or digit", s)
	}
	return nil
}
