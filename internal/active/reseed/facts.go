package reseed

import (
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Facts are what a decision may look at.
type Facts struct {
	// Volume is the one that failed; Current the one the copies are on now, the
	// spare once one was assigned.
	Volume, Current Volume
	// Copies are those on the volume and, once work began, those it is about.
	Copies []Copy
	Spares []Spare
	Failed int    // copies on this server that are FailedAndSuspended
	Held   string // why no seed may begin now, empty for nothing
	Off    string // why nothing at all may be done, empty for nothing
}

// Volume is a disk as its server finds it.
type Volume struct {
	Name     org.VolumeName
	Cause    string // class of its failure, empty while it works
	Why      string
	Calm     bool // its newest write tests passed
	Failures int  // in the last 7 days, before this one
}

// Copy is a copy of this server.
type Copy struct {
	Database org.DatabaseName
	State    org.CopyState
	For      time.Duration // in this state
	Cause    string        // class of its failure
	Reason   string
	Active   bool // it should be, or is, the active one
	InSync   bool
	ByAdmin  bool // an administrator suspended it
	BySystem bool // AutoReseed suspended it
	NoAuto   bool // AutoReseed is to leave it alone
	Here     bool // it is on Volume
	// Sources are healthy copies in sync elsewhere.
	Sources int
	// Idle is how long its seed has brought nothing; 0 while it waits its turn.
	Idle time.Duration
}

// Spare is a spare volume of this server.
type Spare struct {
	Name    org.VolumeName
	Size    int64
	Problem string // why it cannot be used, empty when it can
}

// Do is a deed.
type Do string

// Deeds.
const (
	Nothing   Do = ""
	Suspend   Do = "suspend"  // a copy that stays Failed: it is not tried any more
	Resume    Do = "resume"   // try the copies again
	Assign    Do = "assign"   // the copies go to the spare and are seeded there
	InPlace   Do = "in-place" // the copies are emptied and seeded where they are
	Condemn   Do = "condemn"  // the spare failed: it is not to be used
	Alert     Do = "alert"    // a person is needed
	Completed Do = "completed"
)

// Step is what is to be done now.
type Step struct {
	Do        Do
	Databases []org.DatabaseName
	Spare     org.VolumeName
	Say       string // the reason, in words; a change of stage without a deed has it too
}

// Times are the timers and the numbers of tries.
type Times struct {
	Failed      time.Duration // a copy is Failed this long before it is suspended
	Watch       time.Duration // all copies have failed this long before anything is done
	Gone        time.Duration // the same where only another disk helps
	ResumeSleep time.Duration
	Resumes     int
	SpareSleep  time.Duration
	Spares      int
	SeedSleep   time.Duration
	Seeds       int
	PreCheck    time.Duration // between two looks whether seeding is possible
	Calm        time.Duration // copies have to stay healthy this long
	NoProgress  time.Duration // a seed that brings nothing this long has failed
	Reset       time.Duration // after which blocked work begins anew
	FailedMost  int           // FailedAndSuspended copies on a server; more are not its disks' fault
}

// Default are the times of the product (docs/design/health.md 8.1).
func Default() Times {
	return Times{
		Failed: 10 * time.Minute, Watch: 15 * time.Minute, Gone: time.Minute,
		ResumeSleep: 5 * time.Minute, Resumes: 3, SpareSleep: time.Hour, Spares: 5, SeedSleep: time.Hour, Seeds: 5,
		PreCheck: 5 * time.Minute, Calm: 5 * time.Minute, NoProgress: 10 * time.Minute, Reset: 3 * 24 * time.Hour, FailedMost: 8,
	}
}

// Fast are the shortened ones of `timers = "fast"`.
func Fast() Times {
	t := Default()
	t.Failed, t.Watch, t.Gone = 15*time.Second, 20*time.Second, 3*time.Second
	t.ResumeSleep, t.SpareSleep, t.SeedSleep = 2*time.Second, 5*time.Second, 5*time.Second
	t.PreCheck, t.Calm, t.NoProgress = 2*time.Second, 5*time.Second, 10*time.Second
	return t
}
