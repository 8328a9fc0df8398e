package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// extendSwarm adds to docker's swarm commands what Docker Swarm does not have.
func extendSwarm(dockerCLI command.Cli, commands []*cobra.Command) {
	swarm := findCommand(commands, "swarm")
	swarm.RemoveCommand(findCommand(swarm.Commands(), "init"))
	swarm.AddCommand(initCommand(dockerCLI), rotateKeysCommand(dockerCLI))
}

// initCommand is docker's `swarm init`, which has no flag for labels.
func initCommand(dockerCLI command.Cli) *cobra.Command {
	there := &otherAPI{Cli: dockerCLI}
	cmd := findCommand(findCommand(dockerCommands(there), "swarm").Commands(), "init")
	run := cmd.RunE
	which := cmd.Flags().String("encrypt", "", `Which networks are encrypted: those with "--opt encrypted" ("opt-in"), or also the mesh network and all others ("all") (default what the node's daemon says)`)
	cmd.MarkFlagsMutuallyExclusive("encrypt", "force-new-cluster")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("encrypt") {
			there.client = encryptingAPI{dockerCLI.Client(), *which}
		}
		return run(cmd, args)
	}
	return cmd
}

// encryptingAPI makes swarms that say which of their networks are encrypted.
type encryptingAPI struct {
	client.APIClient
	which string
}

// SwarmInit implements client.APIClient.
func (e encryptingAPI) SwarmInit(ctx context.Context, o client.SwarmInitOptions) (client.SwarmInitResult, error) {
	if e.which != "all" && e.which != "opt-in" {
		return client.SwarmInitResult{}, fmt.Errorf("--encrypt %q: want all or opt-in", e.which)
	}
	o.Spec.Labels = map[string]string{"mesh.encrypt": e.which}
	return e.APIClient.SwarmInit(ctx, o)
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
