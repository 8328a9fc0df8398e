package main

import (
	"fmt"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// warnOfManagers has the commands after which there are more or fewer managers say so
// if that is a bad number of them. The daemon knows what is bad: GET /info.
func warnOfManagers(dockerCLI command.Cli, all []*cobra.Command) {
	for group, names := range map[string][]string{"node": {"promote", "demote"}, "swarm": {"join"}} {
		for _, name := range names {
			findCommand(findCommand(all, group).Commands(), name).PostRunE = func(cmd *cobra.Command, _ []string) error {
				info, err := dockerCLI.Client().Info(cmd.Context(), client.InfoOptions{})
				if err != nil {
					return nil // what was asked for is done
				}
				for _, w := range info.Info.Swarm.Warnings {
					fmt.Fprintln(dockerCLI.Err(), "WARNING: "+w)
				}
				return nil
			}
		}
	}
}
