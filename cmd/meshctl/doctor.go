package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/meshd/doctor"
)

// engineSocket is where the machine's own engine listens when no meshd tells.
const engineSocket = "/var/run/docker.sock"

func doctorCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor [OPTIONS]",
		Short: "Examine this machine and the cluster, and say what to do about each problem",
		Long: "Examine this machine and the cluster, and say what to do about each problem.\n\n" +
			"A manager has all nodes examine themselves and try the ways between each other: control, gossip and tunnel, with small\n" +
			"packets and full ones. A worker examines itself; so does a machine in no swarm, or without meshd. The exit status is 1\n" +
			"if there is a problem.",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), dockerCLI, format, all)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&format, "format", "pretty", `"pretty" or "json"`)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Show what is well, too")
	return cmd
}

func runDoctor(ctx context.Context, dockerCLI command.Cli, format string, all bool) error {
	if format != "pretty" && format != "json" {
		return fmt.Errorf("--format is %q: pretty or json is needed", format)
	}
	var found doctor.Reports
	err := newMeshClient(dockerCLI.Client()).get(ctx, "/mesh/doctor", nil, &found)
	if err != nil {
		found = examineAlone(ctx, err)
	}
	if format == "json" {
		enc := json.NewEncoder(dockerCLI.Out())
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	} else {
		printReports(dockerCLI.Out(), found, all)
	}
	if n := problems(found); n > 0 {
		return cli.StatusError{StatusCode: 1, Status: fmt.Sprintf("%d problems", n)}
	}
	return nil
}

// examineAlone is what can be seen without a daemon.
func examineAlone(ctx context.Context, why error) doctor.Reports {
	name, _ := os.Hostname()
	advice := "start it: systemctl start meshd; see journalctl -u meshd"
	if client.IsErrConnectionFailed(why) || os.IsPermission(why) {
		advice += "; its socket is root's"
	}
	findings := []doctor.Finding{{Check: "meshd", Level: doctor.Problem, Says: why.Error(), Advice: advice}}
	findings = append(findings, doctor.Machine(ctx, doctor.Config{Engine: engineSocket, Ports: doctor.DefaultPorts()})...)
	return doctor.Reports{Reports: []doctor.Report{{Hostname: name, Time: time.Now(), Findings: findings}}}
}

func printReports(w io.Writer, found doctor.Reports, all bool) {
	for _, r := range found.Reports {
		if r.Error != "" {
			r.Findings = []doctor.Finding{{Check: "node", Level: doctor.Problem, Says: r.Error, Advice: "see whether the machine and its meshd run, and reach a manager's port 2377"}}
		}
		printFindings(w, r.Name(), r.Findings, all)
	}
	if len(found.Cluster) > 0 {
		printFindings(w, "cluster", found.Cluster, all)
	}
}

func printFindings(w io.Writer, of string, findings []doctor.Finding, all bool) {
	well := 0
	fmt.Fprintln(w, of)
	for _, f := range findings {
		if f.Level == doctor.OK && f.Advice == "" && !all {
			well++
			continue
		}
		fmt.Fprintf(w, "  %-8s %-14s %s\n", f.Level, f.Check, strings.ReplaceAll(f.Says, "\n", "; "))
		if f.Advice != "" {
			fmt.Fprintf(w, "  %-8s %-14s -> %s\n", "", "", f.Advice)
		}
	}
	if well > 0 {
		fmt.Fprintf(w, "  %-8s %d things looked at are as they should be\n", doctor.OK, well)
	}
}

// problems counts them; a node that gave no report is one.
func problems(found doctor.Reports) (n int) {
	count := func(findings []doctor.Finding) {
		for _, f := range findings {
			if f.Level == doctor.Problem {
				n++
			}
		}
	}
	count(found.Cluster)
	for _, r := range found.Reports {
		count(r.Findings)
		if r.Error != "" {
			n++
		}
	}
	return n
}
