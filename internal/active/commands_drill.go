package active

import (
	"context"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/drill"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

type drillArgs struct {
	Exercise string           `json:"exercise" arg:"1" required:"true" enum:"move,kill-worker,maintenance,reseed,reseed-spare,restore-mailbox,network,failover" doc:"what is exercised"`
	Server   org.ServerName   `json:"server" complete:"server list" doc:"server that is exercised; of a reseed that of the copy"`
	Database org.DatabaseName `json:"database" complete:"database list" doc:"database of a move, a reseed or recovered mail"`
	To       org.ServerName   `json:"to" complete:"server list" doc:"target of a move; a copy in sync when not given"`
	Network  string           `json:"network" complete:"network list" doc:"network to do without; one for replication when not given"`
	Allowed  time.Duration    `json:"max_unavailable" default:"5s" doc:"how long clients may wait; at twice that the drill ends"`
	Allow    string           `json:"allow" enum:",failover" doc:"failover: people may notice it"`
	Why      string           `json:"why" doc:"reason, for the report"`
}

type drillRunArgs struct {
	drillArgs
	Wait   bool `json:"wait" doc:"wait until it is done, and tell each step"`
	DryRun bool `json:"dry_run" doc:"only show the plan"`
}

type drillReportArgs struct {
	ID     string `json:"id" arg:"1" required:"true" complete:"drill list" doc:"id of the drill"`
	Verify bool   `json:"verify" doc:"check the signatures of all reports and that none was removed or changed"`
}

// DrillRow is a line of drill list.
type DrillRow struct {
	ID          string        `json:"id" col:"ID"`
	Title       string        `json:"title" col:"WHAT"`
	By          string        `json:"by,omitempty" col:"ORDERED-BY"`
	Ended       time.Time     `json:"ended" col:"ENDED"`
	Passed      bool          `json:"passed" col:"PASSED"`
	Unavailable time.Duration `json:"unavailable" col:"LONGEST-WAIT"`
	Lost        int           `json:"lost" col:"LOST"`
	Doubled     int           `json:"doubled" col:"DOUBLED"`
}

// DrillReport is a report with what a check of it found.
type DrillReport struct {
	drill.Report
	Sum string `json:"sum"`
	// SignedWith is the SHA-256 of the certificate.
	SignedWith string   `json:"signed_with"`
	Verified   []string `json:"verified,omitempty"`
}

// drillCommands exercise failures and show what was found.
func drillCommands(m *Manager) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "drill", Verb: "plan", Short: "Show what a drill would do, or why it may not begin now", Roles: read,
			Example: "postern drill plan move --database DB01"},
			func(ctx context.Context, in drillArgs) (PlanDetails, error) {
				p, err := m.drillPlan(ctx, in.order(ctx))
				return planDetails(p, time.Now()), err
			}),
		command.New(command.Command{Noun: "drill", Verb: "run", Short: "Exercise a failure on the real group, within bounds, and report what people would have noticed",
			Changes: true, Dangerous: true, Stream: true,
			Long: "Refused unless every database concerned is in sync on three servers, votes are to spare, every server is there and nothing critical is red. " +
				"While it runs, clients on up to two other servers write and read a mailbox of their own; what takes longer than twice --max-unavailable ends the drill and is taken back. " +
				"The report is signed and names the sum of the one before it; a drill that ended before its time has one too.",
			Example: "postern drill run maintenance --server MBX2 --wait"},
			func(ctx context.Context, in drillRunArgs) (PlanDetails, error) {
				p, err := m.drillPlan(ctx, in.order(ctx))
				return m.begin(ctx, p, err, in.DryRun, in.Wait)
			}),
		command.New(command.Command{Noun: "drill", Verb: "list", Short: "List the reports of drills, the newest first", Roles: read, Example: "postern drill list"},
			func(context.Context, command.None) ([]DrillRow, error) {
				out := []DrillRow{}
				all := drill.Reports(m.group.View())
				for i := len(all) - 1; i >= 0; i-- {
					r := all[i]
					out = append(out, DrillRow{r.ID, r.Title, r.By, r.Ended, r.Passed, r.Unavailable, r.Lost, r.Doubled})
				}
				return out, nil
			}),
		command.New(command.Command{Noun: "drill", Verb: "report", Short: "Show the report of a drill", Roles: read,
			Example: "postern drill report 261121-124455-3fa2 --verify"},
			func(_ context.Context, in drillReportArgs) (DrillReport, error) { return m.drillReport(in) }),
	}
}

func (in drillArgs) order(ctx context.Context) drill.Order {
	return drill.Order{Exercise: in.Exercise, Server: in.Server, Database: in.Database, To: in.To, Network: in.Network, Allowed: in.Allowed, Allow: in.Allow,
		By: command.CallerOf(ctx).Name, Why: in.Why}
}

func (m *Manager) drillReport(in drillReportArgs) (DrillReport, error) {
	all := drill.Reports(m.group.View())
	for _, r := range all {
		if r.ID != in.ID {
			continue
		}
		out := DrillReport{Report: r, SignedWith: "certificate " + r.Fingerprint()}
		var err error
		if out.Sum, err = r.Sum(); err != nil || !in.Verify {
			return out, err
		}
		out.Verified, err = drill.Verify(all, m.deps.Plans.Authority)
		return out, err
	}
	return DrillReport{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no report of a drill %s", in.ID), "postern drill list")
}

// refused is the error of what may not begin, nil for no reason.
func refused(why []string) error {
	if len(why) == 0 {
		return nil
	}
	return kind.WithHint(kind.Errorf(kind.Conflict, "the drill may not begin now: %s", strings.Join(why, "; ")), "postern copy status; postern health report")
}
