package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/meshd/api"
)

// taskCommand is about single tasks.
func taskCommand(dockerCLI command.Cli) *cobra.Command {
	root := &cobra.Command{
		Use: "task", Short: "See why a task is where it is", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(&cobra.Command{
		Use: "explain TASK", Short: "Say of each node whether it could take a task, and why not", Args: cli.ExactArgs(1), ValidArgsFunction: completeTasks(dockerCLI),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExplain(cmd.Context(), dockerCLI.Out(), newMeshClient(dockerCLI.Client()), args[0])
		},
	})
	return root
}

func runExplain(ctx context.Context, w io.Writer, c meshClient, task string) error {
	var e api.Explanation
	if err := c.get(ctx, "/mesh/tasks/"+url.PathEscape(task)+"/explain", nil, &e); err != nil {
		return err
	}
	return printExplanation(w, e)
}

func printExplanation(w io.Writer, e api.Explanation) error {
	on := "on no node"
	for _, n := range e.Nodes {
		if n.NodeID == e.NodeID {
			on = "on " + n.Hostname
		}
	}
	_, err := fmt.Fprintf(w, "%s\nis %s %s, wanted %s: %s\n", e.Name, e.Status.State, on, e.DesiredState, e.Status.Message)
	if err == nil && e.Status.Err != "" {
		_, err = fmt.Fprintf(w, "%s\n", e.Status.Err)
	}
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "\nNODE\tCOULD TAKE IT\tWHY NOT")
	for _, n := range e.Nodes {
		could := "yes"
		if len(n.Reasons) > 0 {
			could = "no"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", n.Hostname, could, strings.Join(n.Reasons, "; "))
	}
	return t.Flush()
}
