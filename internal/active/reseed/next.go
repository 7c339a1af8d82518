package reseed

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Next decides. The row it returns is to be written together with the deed;
// where that fails nothing has happened, and Next is asked again.
func Next(f Facts, row org.Reseed, t Times, now time.Time) (org.Reseed, Step) {
	if f.Off != "" || row.Cancelled != "" {
		return row, Step{}
	}
	d := decision{f: f, row: clone(row), t: t, now: now}
	var s Step
	switch row.Stage {
	case org.ReseedIdle, org.ReseedDone:
		s = d.idle()
	case org.ReseedWatch:
		s = d.watch()
	case org.ReseedResume:
		s = d.resume()
	case org.ReseedPreCheck:
		s = d.preCheck()
	case org.ReseedSpare:
		s = d.spare()
	case org.ReseedInPlace:
		s = d.inPlace()
	case org.ReseedSeed:
		s = d.seed()
	case org.ReseedVerify:
		s = d.verify()
	case org.ReseedBlocked:
		s = d.blocked()
	}
	if s.Do != Nothing || d.row.Stage != row.Stage {
		d.row.Retry = false
	}
	if s.Say != "" && (d.row.Stage != org.ReseedIdle) {
		d.row.Note(now, s.Say)
	}
	return d.row, s
}

func clone(r org.Reseed) org.Reseed {
	tries := map[org.ReseedStage]int{}
	for k, v := range r.Tries {
		tries[k] = v
	}
	r.Tries = tries
	r.Databases = slices.Clone(r.Databases)
	r.Steps = slices.Clone(r.Steps)
	return r
}

// decision is one run of Next.
type decision struct {
	f   Facts
	row org.Reseed
	t   Times
	now time.Time
}

// to changes the stage.
func (d *decision) to(s org.ReseedStage, format string, args ...any) Step {
	d.row.Stage, d.row.Since, d.row.Next, d.row.Why = s, d.now, time.Time{}, ""
	return Step{Say: fmt.Sprintf(format, args...)}
}

// due tells whether the stage may act again.
func (d *decision) due() bool { return d.row.Retry || !d.now.Before(d.row.Next) }

func works(c Copy) bool {
	switch c.State {
	case org.CopyHealthy, org.CopyMounted, org.CopyMounting, org.CopyDisconnectedAndHealthy:
		return true
	}
	return false
}

// broken tells whether a copy cannot come back by itself. One whose disk hangs
// may not be able to show that it was suspended.
func (d *decision) broken(c Copy) bool {
	return c.State == org.CopyFailedAndSuspended || c.State == org.CopyFailed && (c.BySystem || org.NeedsDisk(d.f.Current.Cause))
}

// away are the copies of the work that do not serve.
func (d *decision) away() []Copy {
	return slices.DeleteFunc(slices.Clone(d.f.Copies), func(c Copy) bool { return works(c) || c.State == org.CopySuspended || c.State == org.CopyDismounted })
}

// whole tells whether all of the volume's copies failed: one that works there
// shows that the disk is not what is wrong.
func (d *decision) whole() bool {
	return !slices.ContainsFunc(d.f.Copies, func(c Copy) bool { return c.Here && works(c) })
}

// needsDisk tells whether only another disk helps.
func (d *decision) needsDisk() bool {
	v := d.f.Current
	return org.NeedsDisk(v.Cause) || v.Cause == org.CauseHung || v.Failures > 0
}

func names(cs []Copy) []org.DatabaseName {
	out := make([]org.DatabaseName, len(cs))
	for i, c := range cs {
		out[i] = c.Database
	}
	return out
}

func list(dbs []org.DatabaseName) string {
	words := make([]string, len(dbs))
	for i, n := range dbs {
		words[i] = string(n)
	}
	return strings.Join(words, ", ")
}

// idle looks whether there is something to do.
func (d *decision) idle() Step {
	var out []Copy
	for _, c := range d.f.Copies {
		if d.broken(c) {
			out = append(out, c)
			continue
		}
		if c.State == org.CopyFailed && c.For >= d.t.Failed && !c.ByAdmin && !c.BySystem && !c.Active && !c.NoAuto {
			return Step{Do: Suspend, Databases: []org.DatabaseName{c.Database}, Say: fmt.Sprintf("%s has been Failed for %s: %s", c.Database, c.For.Round(time.Second), c.Reason)}
		}
	}
	if len(out) == 0 {
		return Step{}
	}
	d.row = org.Reseed{Server: d.row.Server, Volume: d.f.Volume.Name, Databases: names(out), Begun: d.now, Steps: d.row.Steps,
		Cause: cmp.Or(d.f.Current.Cause, out[0].Cause), Tries: map[org.ReseedStage]int{}}
	return d.to(org.ReseedWatch, "%s failed: %s", list(d.row.Databases), cmp.Or(d.f.Current.Why, out[0].Reason))
}

// watch waits whether it ends by itself.
func (d *decision) watch() Step {
	var out []Copy
	for _, c := range d.f.Copies {
		if d.broken(c) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return d.completed("ended by itself")
	}
	d.row.Databases, d.row.Cause = names(out), cmp.Or(d.f.Current.Cause, out[0].Cause)
	wait := d.t.Watch
	if org.NeedsDisk(d.f.Current.Cause) {
		wait = d.t.Gone
	}
	if i := slices.IndexFunc(out, func(c Copy) bool { return c.Active }); i >= 0 {
		d.row.Why = fmt.Sprintf("%s is still active here", out[i].Database)
		return Step{}
	}
	if d.now.Sub(d.row.Since) < wait && !d.row.Retry {
		return Step{}
	}
	if !d.needsDisk() && len(resumable(out)) > 0 {
		return d.to(org.ReseedResume, "%s since %s", list(d.row.Databases), d.now.Sub(d.row.Since).Round(time.Second))
	}
	return d.to(org.ReseedPreCheck, "only a seed helps %s: %s", list(d.row.Databases), cmp.Or(d.row.Cause, "what is on the disk cannot be used"))
}

// resumable are the copies that may work when they are tried again. One that
// failed by itself waits for a seed: it knows that it cannot go on.
func resumable(cs []Copy) []Copy {
	return slices.DeleteFunc(slices.Clone(cs), func(c Copy) bool { return !c.BySystem || c.Cause == org.CauseLog })
}

// resume tries the copies again.
func (d *decision) resume() Step {
	out := d.away()
	if len(out) == 0 {
		return d.toVerify()
	}
	if !d.due() {
		return Step{}
	}
	again := resumable(out)
	if d.needsDisk() || d.row.Tries[org.ReseedResume] >= d.t.Resumes || len(again) == 0 && d.row.Tries[org.ReseedResume] == 0 {
		return d.to(org.ReseedPreCheck, "trying %s again did not help", list(names(out)))
	}
	d.row.Tries[org.ReseedResume]++
	d.row.Next = d.now.Add(d.t.ResumeSleep)
	return Step{Do: Resume, Databases: names(out), Say: fmt.Sprintf("try %d of %d", d.row.Tries[org.ReseedResume], d.t.Resumes)}
}

// preCheck looks whether a seed can do harm.
func (d *decision) preCheck() Step {
	out := d.away()
	if len(out) == 0 {
		return d.toVerify()
	}
	if !d.due() {
		return Step{}
	}
	if why := d.objection(out); why != "" {
		news := why != d.row.Why
		d.row.Why, d.row.Next = why, d.now.Add(d.t.PreCheck)
		if news {
			return Step{Do: Alert, Say: "no seed may begin: " + why}
		}
		return Step{}
	}
	if d.needsDisk() && d.whole() {
		return d.to(org.ReseedSpare, "%s needs another disk: %s", d.f.Volume.Name, cmp.Or(d.f.Current.Cause, "it failed before"))
	}
	return d.to(org.ReseedInPlace, "%s works, its copies are seeded where they are", d.f.Current.Name)
}

// objection says why the copies must not be emptied.
func (d *decision) objection(out []Copy) string {
	if d.f.Held != "" {
		return d.f.Held
	}
	if d.f.Failed > d.t.FailedMost {
		return fmt.Sprintf("%d copies on this server failed, more than %d: it is not one disk", d.f.Failed, d.t.FailedMost)
	}
	for _, c := range out {
		switch {
		case c.NoAuto:
			return fmt.Sprintf("AutoReseed is to leave %s alone", c.Database)
		case c.Active:
			return fmt.Sprintf("%s is still active here", c.Database)
		case c.Sources == 0:
			return fmt.Sprintf("%s has no healthy copy in sync to seed from", c.Database)
		}
	}
	return ""
}

// spare gives the copies another volume.
func (d *decision) spare() Step {
	out := d.away()
	if len(out) == 0 {
		return d.toVerify()
	}
	if why := d.objection(out); why != "" {
		return d.to(org.ReseedPreCheck, "no longer: %s", why)
	}
	if d.row.Tries[org.ReseedSpare] >= d.t.Spares && !d.row.Retry {
		return d.block("%d tries to find a spare: %s", d.row.Tries[org.ReseedSpare], cmp.Or(d.row.Error, "none worked"))
	}
	if s, ok := best(d.f.Spares); ok {
		d.row.Tries[org.ReseedSpare]++
		d.row.Error = ""
		step := d.to(org.ReseedSeed, "%s go to spare %s", list(names(out)), s.Name)
		d.row.Spare, d.row.Databases = s.Name, names(d.f.Copies)
		step.Do, step.Spare, step.Databases = Assign, s.Name, names(d.f.Copies)
		return step
	}
	if !d.due() {
		return Step{}
	}
	d.row.Tries[org.ReseedSpare]++
	d.row.Error, d.row.Next = noSpare(d.f.Spares), d.now.Add(d.t.SpareSleep)
	if d.f.Current.Cause == "" && d.f.Current.Calm && d.row.Tries[org.ReseedInPlace] < d.t.Seeds {
		return d.to(org.ReseedInPlace, "%s; %s works again", d.row.Error, d.f.Current.Name)
	}
	return Step{Do: Alert, Say: fmt.Sprintf("try %d of %d: %s", d.row.Tries[org.ReseedSpare], d.t.Spares, d.row.Error)}
}

// best is the smallest spare that can be used, then the first by name.
func best(all []Spare) (Spare, bool) {
	ok := slices.DeleteFunc(slices.Clone(all), func(s Spare) bool { return s.Problem != "" })
	if len(ok) == 0 {
		return Spare{}, false
	}
	return slices.MinFunc(ok, func(a, b Spare) int { return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Name, b.Name)) }), true
}

func usable(all []Spare) int {
	n := 0
	for _, s := range all {
		if s.Problem == "" {
			n++
		}
	}
	return n
}

func noSpare(all []Spare) string {
	if len(all) == 0 {
		return "there is no spare"
	}
	words := make([]string, len(all))
	for i, s := range all {
		words[i] = fmt.Sprintf("%s: %s", s.Name, s.Problem)
	}
	return "no spare can be used: " + strings.Join(words, "; ")
}

// inPlace empties and seeds the copies where they are.
func (d *decision) inPlace() Step {
	out := d.away()
	if len(out) == 0 {
		return d.toVerify()
	}
	if why := d.objection(out); why != "" {
		return d.to(org.ReseedPreCheck, "no longer: %s", why)
	}
	if d.row.Tries[org.ReseedInPlace] >= d.t.Seeds && !d.row.Retry || d.needsDisk() && d.whole() {
		if d.row.Tries[org.ReseedSpare] < d.t.Spares && d.whole() {
			return d.to(org.ReseedSpare, "seeding on %s did not work: %s", d.f.Current.Name, cmp.Or(d.row.Error, d.f.Current.Why, "it failed"))
		}
		return d.block("seeding on %s did not work %d times: %s", d.f.Current.Name, d.row.Tries[org.ReseedInPlace], cmp.Or(d.row.Error, d.f.Current.Why))
	}
	if !d.due() {
		return Step{}
	}
	if d.f.Current.Cause != "" || !d.f.Current.Calm {
		d.row.Why = fmt.Sprintf("waits until %s passes its write tests", d.f.Current.Name)
		return Step{}
	}
	d.row.Tries[org.ReseedInPlace]++
	step := d.to(org.ReseedSeed, "%s are seeded on %s, try %d of %d", list(names(out)), d.f.Current.Name, d.row.Tries[org.ReseedInPlace], d.t.Seeds)
	d.row.Databases = names(out)
	step.Do, step.Databases = InPlace, names(out)
	return step
}

// seed waits for the seeds.
func (d *decision) seed() Step {
	if d.row.Spare != "" && (org.NeedsDisk(d.f.Current.Cause) || d.f.Current.Cause == org.CauseHung) {
		d.row.Error = fmt.Sprintf("spare %s failed: %s", d.row.Spare, d.f.Current.Why)
		step := d.to(org.ReseedSpare, "%s", d.row.Error)
		step.Do, step.Spare = Condemn, d.row.Spare
		d.row.Spare = ""
		return step
	}
	out := d.away()
	if len(out) == 0 {
		return d.toVerify()
	}
	for _, c := range out {
		failed := c.State == org.CopyFailedAndSuspended || c.State == org.CopyFailed && c.For >= d.t.Failed
		if !failed && c.Idle < d.t.NoProgress {
			continue
		}
		d.row.Error = fmt.Sprintf("%s on %s: %s", c.Database, d.f.Current.Name, cmp.Or(c.Reason, string(c.State)))
		if !failed {
			d.row.Error = fmt.Sprintf("the seed of %s brought nothing for %s", c.Database, c.Idle.Round(time.Second))
		}
		step := d.to(org.ReseedInPlace, "%s", d.row.Error)
		d.row.Next = d.now.Add(d.t.SeedSleep)
		return step
	}
	return Step{}
}

func (d *decision) toVerify() Step {
	return d.to(org.ReseedVerify, "all copies are healthy")
}

// verify makes sure that the copies stay healthy.
func (d *decision) verify() Step {
	if out := d.away(); len(out) > 0 {
		return d.to(org.ReseedSeed, "%s is %s", out[0].Database, out[0].State)
	}
	for _, c := range d.f.Copies {
		if !c.InSync && c.State != org.CopySuspended && c.State != org.CopyDismounted {
			d.row.Since, d.row.Why = d.now, fmt.Sprintf("%s is not in sync", c.Database)
			return Step{}
		}
	}
	if d.now.Sub(d.row.Since) < d.t.Calm {
		return Step{}
	}
	return d.completed("healthy and in sync for %s", d.t.Calm)
}

func (d *decision) completed(format string, args ...any) Step {
	took := d.now.Sub(d.row.Begun).Round(time.Second)
	s := d.to(org.ReseedDone, format+"; it took %s", append(args, took)...)
	s.Do = Completed
	d.row.Tries, d.row.Error = nil, ""
	return s
}

func (d *decision) block(format string, args ...any) Step {
	s := d.to(org.ReseedBlocked, format, args...)
	d.row.Why = s.Say
	d.row.Next = d.now.Add(d.t.Reset)
	d.row.Tries[org.ReseedBlocked] = usable(d.f.Spares) // one more wakes it
	s.Do = Alert
	return s
}

// blocked waits for a person, a disk, or better days.
func (d *decision) blocked() Step {
	out := d.away()
	switch {
	case len(out) == 0:
		return d.toVerify()
	case d.row.Retry:
		d.row.Tries = map[org.ReseedStage]int{}
		return d.to(org.ReseedPreCheck, "an administrator had it tried again")
	case usable(d.f.Spares) > d.row.Tries[org.ReseedBlocked] && d.whole():
		d.row.Tries = map[org.ReseedStage]int{}
		return d.to(org.ReseedPreCheck, "a spare is there")
	case d.due():
		d.row.Tries = map[org.ReseedStage]int{}
		return d.to(org.ReseedWatch, "begins anew after %s", d.t.Reset)
	}
	return Step{}
}
