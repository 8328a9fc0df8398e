package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// extendService adds our own commands to docker's `service`.
func extendService(dockerCLI command.Cli, all []*cobra.Command) {
	service := findCommand(all, "service")
	exec, restart := serviceExec(dockerCLI), serviceRestart(service)
	exec.ValidArgsFunction, restart.ValidArgsFunction = completionOf(service, "ps"), completionOf(service, "update")
	service.AddCommand(exec, restart)
}

// otherAPI gives docker's commands another client.
type otherAPI struct {
	command.Cli
	client client.APIClient
}

// Client implements command.Cli.
func (o *otherAPI) Client() client.APIClient {
	if o.client == nil {
		return o.Cli.Client()
	}
	return o.client
}

// serviceExec is docker's `exec` with a task for a container, on whatever node.
func serviceExec(dockerCLI command.Cli) *cobra.Command {
	there := &otherAPI{Cli: dockerCLI}
	command := findCommand(dockerCommands(there), "exec")
	run := command.RunE
	command.Use = "exec [OPTIONS] SERVICE|TASK COMMAND [ARG...]"
	command.Short = "Execute a command in a running task of a service, on any node"
	command.Long = "Execute a command in a running task of a service, on any node.\n\n" +
		"TASK is a task's ID, or its name such as web.2. Of a service, a task on the node that meshctl is connected\n" +
		"to is taken first, else the one in the lowest slot."
	command.Annotations, command.ValidArgsFunction = nil, nil
	command.RunE = func(cmd *cobra.Command, args []string) error {
		task, err := runningTask(cmd.Context(), dockerCLI.Client(), args[0])
		if err != nil {
			return err
		}
		if there.client, err = clientOn(dockerCLI.Client(), task.NodeID); err != nil {
			return err
		}
		return run(cmd, append([]string{task.Status.ContainerStatus.ContainerID}, args[1:]...))
	}
	return command
}

// nodesPath is below which a manager's daemon passes requests on to a node.
const nodesPath = "/mesh/nodes/"

// clientOn reaches the engine of a node.
func clientOn(here client.APIClient, node string) (client.APIClient, error) {
	dial := here.Dialer()
	return client.New(
		client.WithHost("tcp://meshd"+nodesPath+url.PathEscape(node)),
		client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }),
		client.WithAPIVersion(here.ClientVersion()),
	)
}

// tasks is what is needed to find one.
type tasks interface {
	TaskList(ctx context.Context, options client.TaskListOptions) (client.TaskListResult, error)
	Info(ctx context.Context, options client.InfoOptions) (client.SystemInfoResult, error)
}

// runningTask finds the task that the user means: by service, by slot, by ID.
func runningTask(ctx context.Context, api tasks, ref string) (swarm.Task, error) {
	service, slot, numbered := cutSlot(ref)
	for _, try := range []struct {
		filter, value string
		slot          int
	}{{"service", ref, 0}, {"service", service, slot}, {"id", ref, 0}} {
		if try.value == service && !numbered {
			continue
		}
		found, err := api.TaskList(ctx, client.TaskListOptions{
			Filters: client.Filters{}.Add("desired-state", "running").Add(try.filter, try.value),
		})
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return swarm.Task{}, err
		}
		running := slices.DeleteFunc(found.Items, func(t swarm.Task) bool {
			return try.slot != 0 && t.Slot != try.slot || t.Status.State != swarm.TaskStateRunning ||
				t.Status.ContainerStatus == nil || t.Status.ContainerStatus.ContainerID == ""
		})
		if len(running) > 0 {
			return nearest(ctx, api, running), nil
		}
		if try.filter == "service" && try.slot == 0 {
			break
		}
	}
	return swarm.Task{}, fmt.Errorf("no task %s runs, and none of a service of that name: meshctl service ps says why", ref)
}

// cutSlot takes "web.2" apart.
func cutSlot(ref string) (service string, slot int, ok bool) {
	i := strings.LastIndexByte(ref, '.')
	if i <= 0 {
		return "", 0, false
	}
	slot, err := strconv.Atoi(ref[i+1:])
	return ref[:i], slot, err == nil && slot > 0
}

// nearest is the task on the node that we are connected to, else the one in the
// lowest slot.
func nearest(ctx context.Context, api tasks, running []swarm.Task) swarm.Task {
	self := ""
	if info, err := api.Info(ctx, client.InfoOptions{}); err == nil {
		self = info.Info.Swarm.NodeID
	}
	far := func(t swarm.Task) int {
		if t.NodeID == self {
			return 0
		}
		return 1
	}
	return slices.MinFunc(running, func(a, b swarm.Task) int { return cmp.Or(far(a)-far(b), a.Slot-b.Slot) })
}

// serviceRestart is `service update --force` under the name that people look for.
func serviceRestart(service *cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] SERVICE [SERVICE...]",
		Short: "Replace all tasks of services by new ones, as their update settings say",
		Args:  cli.RequiresMinArgs(1),
	}
	detach := cmd.Flags().BoolP("detach", "d", false, "Exit immediately instead of waiting for the service to converge")
	quiet := cmd.Flags().BoolP("quiet", "q", false, "Suppress progress output")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		update, _, err := service.Find([]string{"update"})
		if err != nil {
			return err
		}
		update.SetContext(cmd.Context())
		for flag, value := range map[string]string{"force": "true", "detach": fmt.Sprint(*detach), "quiet": fmt.Sprint(*quiet)} {
			if err := update.Flags().Set(flag, value); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := update.RunE(update, []string{name}); err != nil {
				return fmt.Errorf("restart %s: %w", name, err)
			}
		}
		return nil
	}
	return cmd
}
