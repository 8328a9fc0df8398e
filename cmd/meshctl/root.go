package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/docker/cli/cli/version"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// defaultHost is where meshd listens on a real machine.
const defaultHost = "unix:///run/meshd/meshd.sock"

// wanted are the commands taken over from docker: all that concern a swarm, and what one needs at hand for looking into its containers.
var wanted = []string{
	"swarm", "node", "service", "stack", "network", "secret", "config", "volume",
	"info", "version", "events", "system", "login", "logout", "context",
	"container", "ps", "inspect", "logs", "exec", "run", "stop", "start", "kill", "rm", "top", "stats", "cp", "port",
	"image", "images", "load", "save", "pull", "tag", "rmi",
}

// run is docker's own main, without plugins, telemetry and aliases.
func run(ctx context.Context, args []string) error {
	nameVersion()
	dockerCLI, err := command.NewDockerCli(command.WithBaseContext(ctx))
	if err != nil {
		return err
	}
	top := newTopLevel(dockerCLI)
	top.SetArgs(args)
	root, rest, err := top.HandleGlobalFlags()
	if err != nil {
		return err
	}
	if err := top.Initialize(); err != nil {
		return err
	}
	root.SetArgs(rest)
	return root.ExecuteContext(ctx)
}

// nameVersion tells docker's package whose version to show: what the Go tool stamped into the binary.
func nameVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	version.Version, version.GitCommit, version.BuildTime = "0.1.0-dev", "", ""
	if v := info.Main.Version; v != "" && v != "(devel)" {
		version.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			version.GitCommit = s.Value
		case "vcs.time":
			version.BuildTime = s.Value
		}
	}
}

// topLevel fills in the default host before the client is made.
type topLevel struct {
	*cli.TopLevelCommand
	opts *cliflags.ClientOptions
}

// Initialize hides the embedded method. The order is docker's: --host and --context, DOCKER_HOST, DOCKER_CONTEXT, the default; only a
// context chosen with `docker context use` does not count, since it was chosen for another program.
func (t topLevel) Initialize() error {
	chosen := len(t.opts.Hosts) > 0 || t.opts.Context != "" ||
		os.Getenv(client.EnvOverrideHost) != "" || os.Getenv(command.EnvOverrideContext) != ""
	if !chosen {
		t.opts.Hosts = []string{defaultHost}
	}
	return t.TopLevelCommand.Initialize()
}

func newTopLevel(dockerCLI *command.DockerCli) topLevel {
	root, opts := newRoot(dockerCLI)
	return topLevel{cli.NewTopLevelCommand(root, dockerCLI, opts, root.Flags()), opts}
}

// newRoot is the whole tree of commands.
func newRoot(dockerCLI *command.DockerCli) (*cobra.Command, *cliflags.ClientOptions) {
	root := &cobra.Command{
		Use:                   "meshctl [OPTIONS] COMMAND [ARG...]",
		Short:                 "Drive a cluster of Docker Engines",
		SilenceUsage:          true,
		SilenceErrors:         true,
		TraverseChildren:      true,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.ShowHelp(dockerCLI.Err())(cmd, args)
			}
			return fmt.Errorf("meshctl: unknown command: meshctl %s\n\nRun 'meshctl --help' for more information", args[0])
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return supported(cmd, dockerCLI) },
	}
	root.SetIn(dockerCLI.In())
	root.SetOut(dockerCLI.Out())
	root.SetErr(dockerCLI.Err())
	opts, _ := cli.SetupRootCommand(root)
	root.Annotations["additionalHelp"] = "Every command but doctor, lab, net, shutdown, task, service exec, service restart and swarm rotate-keys is docker's own, spoken to meshd; the official docker client does the same with DOCKER_HOST=" + defaultHost
	dockers := dockerCommands(dockerCLI)
	extendService(dockerCLI, dockers)
	extendSwarm(dockerCLI, dockers)
	warnOfManagers(dockerCLI, dockers)
	root.AddCommand(slices.DeleteFunc(dockers, func(c *cobra.Command) bool { return c.Name() == "stack" })...)
	root.AddCommand(doctorCommand(dockerCLI), stackCommand(dockerCLI), labCommand(), netCommand(dockerCLI), shutdownCommand(dockerCLI), taskCommand(dockerCLI))
	return root, opts
}

// dockerCommands takes the wanted commands from a root that docker's package fills: it exports no constructor of a single one.
func dockerCommands(dockerCLI command.Cli) []*cobra.Command {
	scratch := &cobra.Command{}
	commands.AddCommands(scratch, dockerCLI)
	var taken []*cobra.Command
	for _, c := range scratch.Commands() {
		if slices.Contains(wanted, c.Name()) {
			scratch.RemoveCommand(c)
			taken = append(taken, c)
		}
	}
	return taken
}

// exitCode is the status that docker gives for the same error.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var status cli.StatusError
	if errors.As(err, &status) && status.StatusCode != 0 {
		return status.StatusCode
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	return 1
}

// errorText is what to print; nothing for commands that have said it themselves.
func errorText(err error) string {
	if err == nil || errdefs.IsCanceled(err) {
		return ""
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return ""
	}
	if client.IsErrConnectionFailed(err) {
		return err.Error() + "\nDoes meshd run there? (systemctl status meshd; in a lab: meshctl lab ls)"
	}
	return err.Error()
}
