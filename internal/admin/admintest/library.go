package admintest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Library is shelves with books, the object of the commands.
type Library struct {
	mu      sync.Mutex // guards all
	shelves []Shelf
	// Before is called by commands before they do their work.
	Before func(ctx context.Context, command string)
}

// Shelf is one shelf.
type Shelf struct {
	Name         string        `json:"name" col:"NAME"`
	Organization string        `json:"organization,omitempty" col:"ORGANIZATION"`
	Size         int64         `json:"size" col:"SIZE"`
	Open         bool          `json:"open" col:"OPEN"`
	Age          time.Duration `json:"age,omitempty" col:"-"`
	Tags         []string      `json:"tags,omitempty" col:"TAGS"`
	Books        []Book        `json:"books,omitempty" col:"-"`
}

// Book is one book.
type Book struct {
	Title string `json:"title" col:"TITLE"`
	Year  int    `json:"year" col:"YEAR"`
}

// ListIn are the parameters of "shelf list".
type ListIn struct {
	Organization string `json:"organization" doc:"only shelves of this organization"`
	Tag          string `json:"tag" doc:"only with this tag"`
}

// CreateIn are the parameters of "shelf create".
type CreateIn struct {
	Name         string        `json:"name" arg:"1" required:"true" doc:"name of the shelf"`
	Organization string        `json:"organization" doc:"whose shelf it is"`
	Size         int64         `json:"size" default:"10" doc:"how many books fit"`
	Color        string        `json:"color" enum:"red,green,blue" default:"green" doc:"its color"`
	Tag          []string      `json:"tag" doc:"a tag; repeat for more"`
	Open         *bool         `json:"open" doc:"whether everybody may read"`
	Age          time.Duration `json:"age" doc:"how old it is"`
}

// LockIn are the parameters of "shelf lock".
type LockIn struct {
	Address string `json:"address" arg:"1" required:"true" scope:"address" doc:"who locks"`
	Code    string `json:"code" secret:"true" required:"true" doc:"the new code"`
}

// KeyIn are the parameters of "shelf key", of which one is called like a flag
// of the command line itself.
type KeyIn struct {
	Name     string `json:"name" arg:"1" required:"true" doc:"name of the shelf"`
	Password string `json:"password" secret:"true" doc:"password of the shelf"`
}

// Key is the answer of "shelf key".
type Key struct {
	Name  string `json:"name" col:"NAME"`
	Token string `json:"token" col:"TOKEN"` // shown once
}

// NameIn names a shelf.
type NameIn struct {
	Name string `json:"name" arg:"1" required:"true" complete:"shelf list" doc:"name of the shelf"`
}

// RemoveIn are the parameters of "shelf remove".
type RemoveIn struct {
	Name   string `json:"name" arg:"1" required:"true" complete:"shelf list" doc:"name of the shelf"`
	DryRun bool   `json:"dry_run" doc:"only show what would be done"`
}

// FailIn are the parameters of "shelf fail".
type FailIn struct {
	Kind  string `json:"kind" arg:"1" required:"true" enum:"internal,not found,exists,denied,invalid,busy,elsewhere,corrupt,full,conflict,panic" doc:"how to fail"`
	After int    `json:"after" doc:"lines of progress before that"`
}

// Commands is the table. A nil library gives names and parameters.
func Commands(l *Library) []command.Command {
	orgRoles := []command.Role{command.OrganizationAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "shelf", Verb: "list", Short: "list shelves", Roles: append(orgRoles, command.HelpDesk)}, l.list),
		command.New(command.Command{Noun: "shelf", Verb: "show", Short: "show a shelf"}, l.show),
		command.New(command.Command{Noun: "shelf", Verb: "create", Short: "put up a shelf", Changes: true,
			Example: "postern shelf create Novels --size 40", Roles: []command.Role{command.OrganizationAdmin}}, l.create),
		command.New(command.Command{Noun: "shelf", Verb: "lock", Short: "set the code", Changes: true,
			Roles: []command.Role{command.OrganizationAdmin, command.HelpDesk, command.Auditor}}, l.lock),
		command.New(command.Command{Noun: "shelf", Verb: "key", Short: "make a key", Changes: true}, l.key),
		command.New(command.Command{Noun: "shelf", Verb: "remove", Short: "take a shelf down", Changes: true, Dangerous: true}, l.remove),
		command.New(command.Command{Noun: "shelf", Verb: "dust", Short: "dust all shelves", Stream: true}, l.dust),
		command.New(command.Command{Noun: "shelf", Verb: "fail", Short: "fail somehow", Changes: true, Stream: true}, l.fail),
		command.New(command.Command{Noun: "shelf", Verb: "label list", Short: "list what shelves are called"}, l.list),
		command.New(command.Command{Noun: "shelf", Verb: "mine", Short: "tell who asks", Scoped: true, Roles: orgRoles}, l.mine),
	}
}

func (l *Library) begin(ctx context.Context, name string) {
	if l.Before != nil {
		l.Before(ctx, name)
	}
}

func (l *Library) list(_ context.Context, in ListIn) ([]Shelf, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Shelf
	for _, s := range l.shelves {
		if (in.Organization == "" || s.Organization == in.Organization) && (in.Tag == "" || slices.Contains(s.Tags, in.Tag)) {
			out = append(out, s)
		}
	}
	return out, nil
}

func (l *Library) find(name string) (int, error) {
	i := slices.IndexFunc(l.shelves, func(s Shelf) bool { return s.Name == name })
	if i < 0 {
		return i, kind.WithHint(kind.Errorf(kind.NotFound, "shelf %s does not exist", name), "postern shelf list")
	}
	return i, nil
}

func (l *Library) show(_ context.Context, in NameIn) (Shelf, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, err := l.find(in.Name)
	if err != nil {
		return Shelf{}, err
	}
	return l.shelves[i], nil
}

func (l *Library) create(ctx context.Context, in CreateIn) (Shelf, error) {
	l.begin(ctx, "shelf create")
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.find(in.Name); err == nil {
		return Shelf{}, kind.Errorf(kind.Exists, "shelf %s exists", in.Name)
	}
	s := Shelf{Name: in.Name, Organization: in.Organization, Size: in.Size, Open: in.Open != nil && *in.Open, Age: in.Age, Tags: in.Tag,
		Books: []Book{{"Emma", 1815}, {"Walden", 1854}}}
	l.shelves = append(l.shelves, s)
	return s, nil
}

func (l *Library) lock(ctx context.Context, _ LockIn) (command.None, error) {
	l.begin(ctx, "shelf lock")
	return command.None{}, nil
}

func (l *Library) key(ctx context.Context, in KeyIn) (Key, error) {
	l.begin(ctx, "shelf key")
	return Key{in.Name, "key of " + in.Password}, nil
}

func (l *Library) remove(ctx context.Context, in RemoveIn) (command.Plan, error) {
	l.begin(ctx, "shelf remove")
	l.mu.Lock()
	defer l.mu.Unlock()
	i, err := l.find(in.Name)
	if err != nil {
		return command.Plan{}, err
	}
	if !in.DryRun {
		l.shelves = slices.Delete(l.shelves, i, i+1)
	}
	return command.Plan{DryRun: in.DryRun, Steps: []command.Step{
		{Name: "empty", Detail: "take the books out", Done: !in.DryRun}, {Name: "unscrew", Detail: "take it off the wall", Done: !in.DryRun},
	}}, nil
}

func (l *Library) dust(ctx context.Context, _ command.None) (string, error) {
	l.begin(ctx, "shelf dust")
	if err := ctx.Err(); err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.shelves {
		command.Progress(ctx, "dusting %s", s.Name)
	}
	return "clean", nil
}

func (l *Library) fail(ctx context.Context, in FailIn) (command.None, error) {
	l.begin(ctx, "shelf fail")
	for i := range in.After {
		command.Progress(ctx, "step %d", i+1)
	}
	for k := kind.NotFound; k <= kind.Conflict; k++ {
		if k.String() == in.Kind {
			return command.None{}, kind.Errorf(k, "it is %s", k)
		}
	}
	if in.Kind == "panic" {
		panic("the shelf fell down")
	}
	return command.None{}, errors.New("inner detail nobody should see")
}

func (l *Library) mine(ctx context.Context, _ command.None) (string, error) {
	c := command.CallerOf(ctx)
	return c.Name + " of " + c.Organization, nil
}
