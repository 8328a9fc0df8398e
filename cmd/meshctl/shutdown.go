package main

import (
	"net/http"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// shutdownCommand is for the unit meshd-shutdown.service.
func shutdownCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use: "shutdown", Short: "End this node's tasks in order, before its machine shuts down", Args: cli.NoArgs,
		Long: "End this node's tasks in order, before its machine shuts down: other nodes take them over, and each is asked\n" +
			"to end when no node sends it connections any more. It returns when none runs.\n\n" +
			"The node gets no tasks until its meshd is started again. meshd-shutdown.service runs this whenever the machine\n" +
			"reboots or powers off.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := newMeshClient(dockerCLI.Client()).do(cmd.Context(), http.MethodPost, "/mesh/shutdown", nil)
			return err
		},
	}
}
