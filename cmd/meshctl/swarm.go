package main

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// extendSwarm adds to docker's swarm commands what Docker Swarm does not have.
func extendSwarm(dockerCLI command.Cli, commands []*cobra.Command) {
	if i := slices.IndexFunc(commands, func(c *cobra.Command) bool { return c.Name() == "swarm" }); i >= 0 {
		commands[i].AddCommand(rotateKeysCommand(dockerCLI))
	}
}

func rotateKeysCommand(dockerCLI command.Cli) *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use: "rotate-keys [--every DURATION]", Short: "Have all nodes change the keys of encrypted networks", Args: cli.NoArgs,
		Long: "Have all nodes change the keys of encrypted networks. Every node makes a key of its own, and uses it to each\n" +
			"other node when both have theirs: no packet is lost. It happens every day by itself; --every sets another time.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if every != 0 {
				query.Set("every", every.String())
			}
			_, err := newMeshClient(dockerCLI.Client()).do(cmd.Context(), http.MethodPost, "/mesh/keys/rotate", query)
			return err
		},
	}
	cmd.Flags().DurationVar(&every, "every", 0, "how long keys last from now on; changes none now")
	return cmd
}
