package main

import (
	"context"

	"github.com/postern-mail/postern/test/load"
)

// scrubs is how often a damaged copy is scrubbed at most: of two damaged
// records side by side the second is found when the first is mended.
const scrubs = 3

// corrupt flips bytes in a copy below its running server, another copy each
// time, and has it scrubbed. Clients go on meanwhile.
func (g *game) corrupt(ctx context.Context) error {
	list, err := g.lab.Databases(ctx)
	if err != nil {
		return err
	}
	n := g.turn("corrupt")
	d := list[n%len(list)]
	server := d.Copies[n/len(list)%len(d.Copies)]
	g.begin("corrupt", "", d.Name+" on "+server)
	if err := g.lab.Order(ctx, "corrupt", server, "--database", d.Name); err != nil {
		return err
	}
	var found struct{ Damaged, Repaired int }
	for range scrubs {
		if err := g.lab.Command(ctx, &found, "copy", "scrub", d.Name, server); err != nil {
			return err
		}
		if found.Damaged == 0 {
			break
		}
	}
	if found.Damaged > 0 {
		g.broke("%s on %s is still damaged in %d places, %d were repaired", d.Name, server, found.Damaged, found.Repaired)
	}
	return g.wholeAgain(ctx, server)
}

// fill fills the disk of a server, another one each time. What is active there
// would rightly answer with temporary errors, so it is moved away first.
func (g *game) fill(ctx context.Context) error {
	list, err := g.lab.Databases(ctx)
	if err != nil {
		return err
	}
	server := g.target.Servers[g.turn("fill-disk")%len(g.target.Servers)].Name
	for _, d := range list {
		if d.Active != server {
			continue
		}
		if err := g.lab.Command(ctx, nil, "database", "move", d.Name); err != nil {
			return err
		}
	}
	g.begin("fill-disk", "", server)
	if err := g.lab.Order(ctx, "fill-disk", server); err != nil {
		return err
	}
	if err := load.Rest(ctx, g.opt.every/2); err != nil {
		return err
	}
	if err := g.lab.Order(ctx, "free-disk", server); err != nil {
		return err
	}
	return g.wholeAgain(ctx, server)
}

// turn counts the faults of a kind so far.
func (g *game) turn(kind string) int {
	n := 0
	for _, f := range g.faults {
		if f.Kind == kind {
			n++
		}
	}
	return n
}
