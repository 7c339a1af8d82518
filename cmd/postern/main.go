// Command postern is the whole of Postern: servers, their tools, and the lab.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/postern-mail/postern/internal/admin/cli"
	"github.com/postern-mail/postern/internal/lab"
	"github.com/postern-mail/postern/internal/node"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := cli.New(cli.Options{
		Version:  version,
		Commands: node.Commands(node.Rooms{}),
		Extra:    append(node.CLI(version), lab.Command()),
		Docs:     node.Docs(),
	})
	for _, c := range root.Commands() {
		if c.Name() == "cluster" {
			c.AddCommand(node.RestoreCommand(version))
		}
		if c.Name() == "dns" {
			c.AddCommand(node.DNSCommand(version))
		}
	}
	return cli.Run(ctx, root, os.Args[1:])
}
