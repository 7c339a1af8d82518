// Package command is the table of what an administrator can do. Each room
// brings its own entries; the HTTP API, the CLI and the console find the same
// entry, so a command has one name, one set of parameters and one audit line
// everywhere.
package command

import (
	"context"
	"fmt"
	"reflect"
)

// Role is what a caller has to be. Roles are checked by the door (admin/api)
// before Run is called.
type Role string

// The roles.
const (
	ServerAdmin       Role = "server-admin"       // everything
	OrganizationAdmin Role = "organization-admin" // one organization's people
	HelpDesk          Role = "help-desk"          // passwords and look-ups of one organization
	Auditor           Role = "auditor"            // reads everything, changes nothing
)

// Command is one entry of the table.
//
// In and Out are struct (or, for Out, slice of struct) types. Fields of In
// carry tags:
//
//	json:"name"     the parameter's name in HTTP and, with - for _, as a flag
//	arg:"1"         its place as a positional argument of the CLI
//	doc:"..."       help text
//	default:"..."   default, as text
//	enum:"a,b"      allowed values
//	required:"true" must be given
//	secret:"true"   asked for without echo, never logged or audited
//	scope:"domain"  the value names what belongs to an organization: see Field
//	complete:"server list"  the command that completes the value in a shell
//
// Fields of Out carry json and, for the CLI's tables, col:"HEADING" (col:"-" hides
// a field from the table; it stays in --json).
type Command struct {
	// Noun and Verb name it. A verb may have two words, "override add", where a
	// noun has several lists of its own.
	Noun, Verb string
	Short      string // one line
	Long       string
	Example    string
	Roles      []Role // empty: ServerAdmin only
	// Changes says that it alters something: it is a POST and is audited
	// before it runs. Otherwise it is a GET.
	Changes bool
	// Dangerous commands have a field `json:"dry_run"` in In; the CLI asks
	// for confirmation unless --yes.
	Dangerous bool
	// Stream commands send progress lines through Progress until they are done.
	Stream bool
	// WithoutQuorum commands run also when the agreed state cannot take their
	// audit record; then it is in the server's file first.
	WithoutQuorum bool
	// Scoped says that Run itself keeps to CallerOf(ctx).Organization. Other
	// commands need a parameter with a scope to be open to a caller who is
	// bound to one organization; the door checks that one.
	Scoped bool

	In, Out reflect.Type
	Run     func(ctx context.Context, in any) (any, error)
}

// Name is "noun verb".
func (c Command) Name() string { return c.Noun + " " + c.Verb }

// New makes an entry from a function; In and Out come from its types.
func New[In, Out any](c Command, run func(ctx context.Context, in In) (Out, error)) Command {
	c.In, c.Out = reflect.TypeFor[In](), reflect.TypeFor[Out]()
	c.Run = func(ctx context.Context, in any) (any, error) {
		v, ok := in.(In)
		if !ok {
			return nil, fmt.Errorf("%s: parameters are %T, want %s", c.Name(), in, c.In)
		}
		return run(ctx, v)
	}
	return c
}

// None is the In of commands without parameters.
type None struct{}

// Plan is the Out of dangerous commands: the named steps, and whether they
// were carried out.
type Plan struct {
	DryRun bool   `json:"dry_run"`
	Steps  []Step `json:"steps"`
}

// Step is one named step of a plan.
type Step struct {
	Name   string `json:"name" col:"STEP"`
	Detail string `json:"detail" col:"DETAIL"`
	Done   bool   `json:"done" col:"DONE"`
	Error  string `json:"error,omitempty" col:"ERROR"`
}

// Caller is who runs a command; doors put it in the context.
type Caller struct {
	Name         string // login or "local:uid"
	Roles        []Role
	Organization string // set for callers bound to one organization
	Remote       string
	TraceID      string
}

type callerKey struct{}
type progressKey struct{}

// WithCaller returns a context that carries the caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller, zero when there is none (a test, the system itself).
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WithProgress returns a context whose Progress lines go to f.
func WithProgress(ctx context.Context, f func(line string)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

// Progress tells the person who waits how far the work is.
func Progress(ctx context.Context, format string, args ...any) {
	if f, ok := ctx.Value(progressKey{}).(func(string)); ok {
		f(fmt.Sprintf(format, args...))
	}
}
