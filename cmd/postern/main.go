// Command postern is the whole of Postern: servers, their tools, and the lab.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/postern-mail/postern/internal/admin/cli"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := cli.New(cli.Options{Version: version})
	return cli.Run(ctx, root, os.Args[1:])
}
