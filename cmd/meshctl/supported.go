package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client/pkg/versions"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// versionDetails is what the check needs to know of the server. Each call may make a connection, so they are made late.
type versionDetails interface {
	CurrentVersion() string
	ServerInfo() command.ServerInfo
}

// supported refuses commands and flags that the server's API is too old for. Docker's packages only annotate them; the check is its
// main program's.
func supported(cmd *cobra.Command, server versionDetails) error {
	for c := cmd; c != nil; c = c.Parent() {
		want, ok := c.Annotations["version"]
		if ok && versions.LessThan(server.CurrentVersion(), want) {
			return fmt.Errorf("%s requires API version %s, but the API version of this node is %s", cmd.CommandPath(), want, server.CurrentVersion())
		}
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			errs = append(errs, flagSupported(f, server))
		}
	})
	return errors.Join(errs...)
}

// anyVersion are flags for fields that meshd takes whatever version was agreed upon: it speaks older ones for the sake of what the engine
// answers.
var anyVersion = []string{"memory-swap", "memory-swappiness"}

func flagSupported(f *pflag.Flag, server versionDetails) error {
	if want := f.Annotations["version"]; len(want) == 1 && !slices.Contains(anyVersion, f.Name) && versions.LessThan(server.CurrentVersion(), want[0]) {
		return fmt.Errorf(`"--%s" requires API version %s, but the API version of this node is %s`, f.Name, want[0], server.CurrentVersion())
	}
	if want := f.Annotations["ostype"]; len(want) == 1 {
		if has := server.ServerInfo().OSType; has != "" && has != want[0] {
			return fmt.Errorf(`"--%s" is only for nodes that run %s; this one runs %s`, f.Name, want[0], has)
		}
	}
	return nil
}
