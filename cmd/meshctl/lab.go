package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"text/tabwriter"
	"text/template"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/test/lab"
)

// labCommand is a cluster on one machine. Results go to stdout, progress to stderr.
func labCommand() *cobra.Command {
	var name string
	root := &cobra.Command{
		Use:   "lab",
		Short: "Run a whole cluster on this one machine",
		Args:  cli.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&name, "name", lab.DefaultName, "Name of the lab")
	root.AddCommand(labUp(&name), labDown(&name), labList(&name), labEnv(&name), labExec(&name), labLogs(&name))
	root.AddCommand(
		labAction(&name, "load IMAGE.tar|IMAGE", "Put an image into every engine of the lab", cli.ExactArgs(1),
			func(ctx context.Context, l *lab.Lab, args []string) error { return l.Load(ctx, args[0]) }),
		labAction(&name, "stop NODE...", "Shut nodes down", cli.RequiresMinArgs(1), eachNode((*lab.Lab).Stop)),
		labAction(&name, "kill NODE...", "Cut nodes' power: every process of theirs, containers too, ends at once", cli.RequiresMinArgs(1), eachNode((*lab.Lab).Kill)),
		labAction(&name, "start NODE...", "Bring nodes back, or those of their daemons that do not run", cli.RequiresMinArgs(1), eachNode((*lab.Lab).Start)),
		labAction(&name, "partition NODE,NODE... [NODE...]...", "Cut all connections between groups of nodes; those not named make one more group", cli.RequiresMinArgs(1),
			func(_ context.Context, l *lab.Lab, args []string) error { return l.Partition(args...) }),
		labAction(&name, "heal", "End a partition", cli.NoArgs,
			func(_ context.Context, l *lab.Lab, _ []string) error { return l.Heal() }),
	)
	return root
}

// labAction is a subcommand on a lab that is there.
func labAction(name *string, use, short string, args cobra.PositionalArgs, do func(context.Context, *lab.Lab, []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return do(cmd.Context(), l, args)
		},
	}
	if strings.Contains(use, "NODE") {
		cmd.ValidArgsFunction = completeLab(name)
	}
	return cmd
}

// eachNode does it to all nodes at the same time: cutting the power of three is one event.
func eachNode(do func(*lab.Lab, context.Context, string) error) func(context.Context, *lab.Lab, []string) error {
	return func(ctx context.Context, l *lab.Lab, nodes []string) error {
		errs := make([]error, len(nodes))
		var group sync.WaitGroup
		for i, node := range nodes {
			group.Go(func() { errs[i] = do(l, ctx, node) })
		}
		group.Wait()
		return errors.Join(errs...)
	}
}

func labUp(name *string) *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Start nodes and make them a swarm", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Name, o.Progress = *name, cmd.ErrOrStderr()
			l, err := lab.Up(cmd.Context(), o)
			if err != nil && l != nil {
				return fmt.Errorf("%w\nlab %s stays as it is: meshctl lab logs --name %s NODE tells more, meshctl lab down --name %s removes it", err, *name, *name, *name)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 3, "Number of nodes")
	cmd.Flags().IntVar(&o.Managers, "managers", 0, "Number of managers among them (default all, at most 3)")
	cmd.Flags().BoolVar(&o.EngineBridge, "engine-bridge", false, "Leave the engines their own bridge (docker0) and packet filter")
	cmd.Flags().BoolVar(&o.IPv6Only, "ipv6-underlay", false, "Give the nodes IPv6 addresses only (otherwise they have both)")
	cmd.Flags().BoolVar(&o.Bare, "bare", false, "Start the nodes only, make no swarm")
	return cmd
}

func labDown(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove a lab with all that belongs to it", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lab.Down(cmd.Context(), *name, cmd.ErrOrStderr())
		},
	}
}

func labEnv(name *string) *cobra.Command {
	return labAction(name, "env [NODE]", "Print what makes a shell's docker and meshctl speak with a node: eval \"$(meshctl lab env node1)\"", cli.RequiresMaxArgs(1),
		func(_ context.Context, l *lab.Lab, args []string) error {
			line, err := l.Env(append(args, "")[0])
			if err != nil {
				return err
			}
			_, err = fmt.Println(line)
			return err
		})
}

func labLogs(name *string) *cobra.Command {
	return labAction(name, "logs NODE", "Print a node's logs", cli.ExactArgs(1),
		func(_ context.Context, l *lab.Lab, args []string) error { return l.Logs(os.Stdout, args[0]) })
}

func labExec(name *string) *cobra.Command {
	cmd := labAction(name, "exec NODE|client [--] COMMAND [ARG...]", "Run a command inside of a node, or on a machine outside of the cluster", cli.RequiresMinArgs(2),
		func(_ context.Context, l *lab.Lab, args []string) error {
			if args[1] == "--" {
				args = append(args[:1:1], args[2:]...)
			}
			if len(args) < 2 {
				return errors.New("no command given")
			}
			// No CommandContext: an interrupt reaches the command by itself, from the terminal, and its exit status is ours.
			child := exec.Command(args[1], args[2:]...)
			child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
			return l.Exec(args[0], child)
		})
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func labList(name *string) *cobra.Command {
	var format string
	cmd := labAction(name, "ls", "List the nodes of a lab", cli.NoArgs,
		func(ctx context.Context, l *lab.Lab, _ []string) error {
			infos, err := l.Ls(ctx)
			if err != nil {
				return err
			}
			return printNodes(infos, format)
		})
	cmd.Flags().StringVar(&format, "format", "table", `"table", "json", or a Go template for each node`)
	return cmd
}

func printNodes(infos []lab.NodeInfo, format string) error {
	switch format {
	case "json":
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(infos)
	case "table":
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
		fmt.Fprintln(table, "NAME\tADDRESS\tROLE\tSTATE\tSOCKET")
		for _, n := range infos {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", n.Name, n.Address, n.Role, n.State, n.Socket)
		}
		return table.Flush()
	}
	tmpl, err := template.New("format").Parse(format + "\n")
	if err != nil {
		return err
	}
	for _, n := range infos {
		if err := tmpl.Execute(os.Stdout, n); err != nil {
			return err
		}
	}
	return nil
}
