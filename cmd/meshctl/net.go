package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/meshd/observe"
)

// netCommand looks into what the network of the node that one is connected to does.
func netCommand(dockerCLI command.Cli) *cobra.Command {
	root := &cobra.Command{
		Use: "net", Short: "See what the network of this node does", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(netCheck(dockerCLI), netTrace(dockerCLI), netFlows(dockerCLI))
	return root
}

// meshClient asks our own part of the API, beside Docker's.
type meshClient struct{ http *http.Client }

// dialer is how a Docker client reaches its daemon.
type dialer interface {
	Dialer() func(context.Context) (net.Conn, error)
}

func newMeshClient(d dialer) meshClient {
	dial := d.Dialer()
	return meshClient{&http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}}
}

// get asks and decodes; a refusal comes back in the daemon's words.
func (c meshClient) get(ctx context.Context, path string, query url.Values, out any) error {
	body, err := c.do(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// do returns the answer's body.
func (c meshClient) do(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: "meshd", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask meshd: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		var refusal struct{ Message string }
		if json.Unmarshal(body, &refusal) != nil || refusal.Message == "" {
			return nil, fmt.Errorf("meshd answers %s: is it an older version, or Docker Engine's own socket?", resp.Status)
		}
		return nil, errors.New(refusal.Message)
	}
	return body, nil
}

const checkTable = "table {{.Node}}\t{{.Part}}\t{{.What}}\t{{.Want}}\t{{.Have}}"

func netCheck(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "check [OPTIONS] [HOST...]",
		Short: "Compare what nodes' kernels hold with what the managers want",
		Long: "Compare what nodes' kernels hold with what the managers want, and list the differences that last.\n\n" +
			"Without HOST, a manager asks all nodes, and a worker checks itself. HOST is a daemon's address as --host\n" +
			"takes it; only those are asked then. The exit status is 1 if anything differs or a node does not answer.",
		RunE: func(cmd *cobra.Command, hosts []string) error {
			return runCheck(cmd.Context(), dockerCLI, hosts, format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", formatUsage)
	return cmd
}

const formatUsage = `"table", "json", or a Go template for each row`

// runCheck asks each host in turn; one that does not answer keeps no other from being checked.
func runCheck(ctx context.Context, dockerCLI command.Cli, hosts []string, format string) error {
	reports, err := checkHosts(ctx, dockerCLI, hosts)
	var rows []formatter.SubContext
	for _, r := range reports {
		name := r.Node
		if r.Hostname != "" {
			name = r.Hostname
		}
		if r.Error != "" {
			err = errors.Join(err, fmt.Errorf("%s: %s", name, r.Error))
			continue
		}
		for _, d := range r.Differences {
			rows = append(rows, &checkRow{Node: name, Difference: d})
		}
		fmt.Fprintf(dockerCLI.Err(), "%s: %d networks, %d tasks, %d differences; data path %s\n", name, r.Networks, r.Tasks, len(r.Differences), r.DataPath)
		for _, e := range r.Ejected {
			fmt.Fprintf(dockerCLI.Err(), "%s: service %s on network %s: %s at %s gets no new connections for %d s: %s\n",
				name, e.Service, e.Network, e.Task, e.Addr, e.Seconds, e.Why)
		}
	}
	if len(rows) > 0 || format != "table" {
		header := formatter.SubHeaderContext{"Node": "NODE", "Part": "PART", "Kind": "KIND", "What": "WHAT", "Want": "WANTED", "Have": "FOUND"}
		if werr := writeRows(dockerCLI.Out(), format, checkTable, header, rows); werr != nil {
			return werr
		}
	}
	if err == nil && len(rows) > 0 {
		err = cli.StatusError{StatusCode: 1, Status: "the nodes differ from what they should be; meshd repairs within seconds what it can, its log says what it cannot"}
	}
	return err
}

func checkHosts(ctx context.Context, dockerCLI command.Cli, hosts []string) ([]observe.Report, error) {
	if len(hosts) > 0 {
		return checkEach(ctx, hosts)
	}
	var all observe.Reports
	err := newMeshClient(dockerCLI.Client()).get(ctx, "/mesh/net/checks", nil, &all)
	if all.Partial {
		fmt.Fprintln(dockerCLI.Err(), "this node is not a manager: it checks itself only")
	}
	return all.Reports, err
}

func checkEach(ctx context.Context, hosts []string) ([]observe.Report, error) {
	var reports []observe.Report
	var errs []error
	for _, host := range hosts {
		var r observe.Report
		c, err := client.New(client.WithHost(host))
		if err == nil {
			err = newMeshClient(c).get(ctx, "/mesh/net/check", nil, &r)
			_ = c.Close() // it has answered, or failed, already
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", host, err))
			continue
		}
		reports = append(reports, r)
	}
	return reports, errors.Join(errs...)
}

func netTrace(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "trace [OPTIONS] CONTAINER NAME|ADDRESS|NODE[:PORT]",
		Short: "Show the way of a packet from a container, step by step",
		Long: "Show what each step on the way of a packet holds: name, network, virtual IP, backends, node, tunnel, MTU.\n\n" +
			"CONTAINER is a container or task of the node that meshctl is connected to, SERVICE.SLOT, or its address; managers\n" +
			"find tasks on other nodes. Nothing is sent. The exit status is 1 if no way leads to the end.",
		Args:              cli.ExactArgs(2),
		ValidArgsFunction: completion.ContainerNames(dockerCLI, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			var t observe.Trace
			query := url.Values{"from": {taskOf(cmd.Context(), dockerCLI.Client(), args[0])}, "to": {args[1]}}
			mesh := newMeshClient(dockerCLI.Client())
			if err := mesh.get(cmd.Context(), "/mesh/net/trace", query, &t); err != nil {
				// It may run elsewhere; only managers can tell.
				task, terr := runningTask(cmd.Context(), dockerCLI.Client(), args[0])
				if terr != nil {
					return err
				}
				query.Set("from", task.ID)
				if err := mesh.get(cmd.Context(), nodesPath+url.PathEscape(task.NodeID)+"/net/trace", query, &t); err != nil {
					return err
				}
			}
			if err := printTrace(dockerCLI.Out(), format, t); err != nil {
				return err
			}
			if !t.Reaches {
				return cli.StatusError{StatusCode: 1, Status: "nothing sent from " + t.From + " reaches " + t.To}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "pretty", `"pretty", "json", or a Go template for each step`)
	return cmd
}

// inspector finds containers.
type inspector interface {
	ContainerInspect(ctx context.Context, id string, options client.ContainerInspectOptions) (client.ContainerInspectResult, error)
}

// taskLabel is Swarm's, on the containers of tasks.
const taskLabel = "com.docker.swarm.task.id"

// taskOf gives the task of a container that the engine knows by that name or ID;
// what it does not know may be a task's ID or an address.
func taskOf(ctx context.Context, engine inspector, ref string) string {
	found, err := engine.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
	if err == nil && found.Container.Config != nil && found.Container.Config.Labels[taskLabel] != "" {
		return found.Container.Config.Labels[taskLabel]
	}
	return ref
}

func printTrace(w io.Writer, format string, t observe.Trace) error {
	if format != "pretty" {
		rows := make([]formatter.SubContext, 0, len(t.Steps))
		for _, s := range t.Steps {
			rows = append(rows, &stepRow{Step: s})
		}
		return writeRows(w, format, "", nil, rows)
	}
	for _, s := range t.Steps {
		mark := "ok"
		if !s.OK {
			mark = "BROKEN"
		}
		fmt.Fprintf(w, "%-9s  %-6s  %s\n", s.Hop, mark, s.Says)
		if s.Advice != "" {
			fmt.Fprintf(w, "%-9s  %-6s  -> %s\n", "", "", s.Advice)
		}
	}
	return nil
}

const flowsTable = "table {{.Service}}\t{{.Network}}\t{{.Protocol}}\t{{.Client}}\t{{.To}}\t{{.Backend}}\t{{.Task}}\t{{.Node}}\t{{.State}}\t{{.Idle}}"

// flowsOptions are the flags of net flows.
type flowsOptions struct {
	service, format string
	all, follow     bool
}

func netFlows(dockerCLI command.Cli) *cobra.Command {
	var o flowsOptions
	cmd := &cobra.Command{
		Use:   "flows [OPTIONS]",
		Short: "List the connections that this node leads to services' tasks",
		Long: "List the connections that the node leads to services' tasks: those to published ports that enter here, and those of\n" +
			"its containers to virtual IPs.",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runFlows(cmd.Context(), dockerCLI.Out(), newMeshClient(dockerCLI.Client()), o)
		},
	}
	cmd.Flags().StringVar(&o.service, "service", "", "Only connections to this service")
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Also those that are closing or were silent for long")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "Go on, and print new ones as they come")
	cmd.Flags().StringVar(&o.format, "format", "table", formatUsage)
	return cmd
}

// followEvery is how often net flows --follow asks. What comes and goes between
// is seen with --all only.
const followEvery = time.Second

func runFlows(ctx context.Context, w io.Writer, c meshClient, o flowsOptions) error {
	query := url.Values{"service": {o.service}}
	if o.all {
		query.Set("all", "1")
	}
	seen := map[string]bool{}
	for first := true; ; first = false {
		var flows []observe.Flow
		if err := c.get(ctx, "/mesh/net/flows", query, &flows); err != nil {
			return err
		}
		now := map[string]bool{}
		var rows []formatter.SubContext
		for _, f := range flows {
			id := fmt.Sprint(f.Network, f.Protocol, f.Client, f.To, f.Backend)
			now[id] = true
			if !seen[id] {
				rows = append(rows, &flowRow{Flow: f})
			}
		}
		seen = now
		format, header := o.format, flowsHeader()
		if !first && format == "table" {
			format = strings.TrimPrefix(flowsTable, "table ") // the header stands above already
		}
		if first || len(rows) > 0 {
			if err := writeRows(w, format, flowsTable, header, rows); err != nil {
				return err
			}
		}
		if !o.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

func flowsHeader() formatter.SubHeaderContext {
	return formatter.SubHeaderContext{
		"Service": "SERVICE", "Network": "NETWORK", "Protocol": "PROTO", "Client": "CLIENT", "To": "TO", "Backend": "BACKEND",
		"Task": "TASK", "Node": "NODE", "Origin": "ORIGIN", "State": "STATE", "Idle": "IDLE",
	}
}
