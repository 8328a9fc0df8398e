package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/streams"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// stackCommand is docker's `stack`. Its `deploy` and `config` read Compose's older format, 3.x; files that are not in it, or that use more
// than it has, are read here as the Compose Specification, and handed on in that format. All else stays docker's: names, labels, order.
func stackCommand(dockerCLI command.Cli) *cobra.Command {
	there := &stackCLI{otherAPI: otherAPI{Cli: dockerCLI}}
	stack := findCommand(dockerCommands(there), "stack")
	for _, name := range []string{"deploy", "config"} {
		cmd := findCommand(stack.Commands(), name)
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			return there.run(cmd, args, run)
		}
	}
	return stack
}

// findCommand panics for a name that docker's packages do not have: a test asks for each.
func findCommand(all []*cobra.Command, name string) *cobra.Command {
	return all[slices.IndexFunc(all, func(c *cobra.Command) bool { return c.Name() == name })]
}

// stackCLI gives docker's commands another input, output and API.
type stackCLI struct {
	otherAPI
	in  *streams.In
	out *streams.Out
}

// In implements command.Cli.
func (s *stackCLI) In() *streams.In {
	if s.in == nil {
		return s.Cli.In()
	}
	return s.in
}

// Out implements command.Cli.
func (s *stackCLI) Out() *streams.Out {
	if s.out == nil {
		return s.Cli.Out()
	}
	return s.out
}

// run reads the Compose files and leaves the rest to docker's command.
func (s *stackCLI) run(cmd *cobra.Command, args []string, docker func(*cobra.Command, []string) error) error {
	flag := cmd.Flags().Lookup("compose-file")
	files := flag.Value.(pflag.SliceValue)
	source := composeSource{names: files.GetSlice(), stack: strings.Join(args, "")}
	if raw, err := cmd.Flags().GetBool("skip-interpolation"); err == nil {
		source.raw = raw
	}
	if err := source.read(s.Cli.In()); err != nil {
		return err
	}
	s.in = streams.NewIn(io.NopCloser(bytes.NewReader(source.stdin)))
	if source.dockerReads() {
		return docker(cmd, args)
	}
	it, err := source.reduce(cmd.Context())
	if err != nil {
		return err
	}
	defer it.close()
	if len(it.ignored) > 0 {
		fmt.Fprintf(s.Err(), "Ignoring unsupported options: %s\n\n", strings.Join(it.ignored, ", "))
	}
	text, err := it.yaml(!source.raw)
	if err != nil {
		return err
	}
	if err := files.Replace([]string{"-"}); err != nil {
		return err
	}
	s.in = streams.NewIn(io.NopCloser(bytes.NewReader(text)))
	s.client = &stackClient{APIClient: s.Cli.Client(), stack: source.stack, more: it.more}
	if cmd.Name() != "config" {
		return docker(cmd, args)
	}
	var out bytes.Buffer
	s.out = streams.NewOut(&out)
	if err := docker(cmd, args); err != nil {
		return err
	}
	_, err = io.WriteString(s.Cli.Out(), it.restore(out.String()))
	return err
}

// stackClient completes what docker's command makes of a stack with what Swarm has and the format 3.x has not.
type stackClient struct {
	client.APIClient
	stack string
	more  additions
}

// ServiceCreate implements client.APIClient.
func (c *stackClient) ServiceCreate(ctx context.Context, o client.ServiceCreateOptions) (client.ServiceCreateResult, error) {
	if add := c.more.services[c.local(o.Spec.Name)]; add != nil {
		add(&o.Spec)
	}
	return c.APIClient.ServiceCreate(ctx, o)
}

// ServiceUpdate implements client.APIClient.
func (c *stackClient) ServiceUpdate(ctx context.Context, id string, o client.ServiceUpdateOptions) (client.ServiceUpdateResult, error) {
	if add := c.more.services[c.local(o.Spec.Name)]; add != nil {
		add(&o.Spec)
	}
	return c.APIClient.ServiceUpdate(ctx, id, o)
}

// NetworkCreate implements client.APIClient.
func (c *stackClient) NetworkCreate(ctx context.Context, name string, o client.NetworkCreateOptions) (client.NetworkCreateResult, error) {
	add := c.more.networks[name]
	if add == nil {
		add = c.more.networks[c.local(name)]
	}
	if add != nil {
		add(&o)
	}
	return c.APIClient.NetworkCreate(ctx, name, o)
}

// local is a name without the stack's.
func (c *stackClient) local(name string) string { return strings.TrimPrefix(name, c.stack+"_") }

// environ is this process's environment, as Compose files see it.
func environ() map[string]string {
	env := map[string]string{}
	for _, e := range os.Environ() {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			env[name] = value
		}
	}
	return env
}
