package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
)

func newTestCLI(t *testing.T, options ...command.CLIOption) *command.DockerCli {
	t.Helper()
	dockerCLI, err := command.NewDockerCli(options...)
	if err != nil {
		t.Fatal(err)
	}
	return dockerCLI
}

func TestWantedCommandsExist(t *testing.T) {
	have := map[string]bool{}
	for _, c := range dockerCommands(newTestCLI(t)) {
		have[c.Name()] = true
	}
	for _, name := range wanted {
		if !have[name] {
			t.Errorf("docker's packages have no command %q any more", name)
		}
	}
}

func TestDefaultHost(t *testing.T) {
	for _, c := range []struct {
		name, want string
		args       []string
		env        map[string]string
	}{
		{name: "nothing said", want: defaultHost},
		{name: "flag", args: []string{"-H", "unix:///x.sock"}, want: "unix:///x.sock"},
		{name: "DOCKER_HOST", env: map[string]string{client.EnvOverrideHost: "unix:///y.sock"}, want: "unix:///y.sock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(client.EnvOverrideHost, c.env[client.EnvOverrideHost])
			t.Setenv(command.EnvOverrideContext, "")
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			dockerCLI := newTestCLI(t)
			top := newTopLevel(dockerCLI)
			top.SetArgs(append(c.args, "version"))
			if _, _, err := top.HandleGlobalFlags(); err != nil {
				t.Fatal(err)
			}
			if err := top.Initialize(); err != nil {
				t.Fatal(err)
			}
			if got := dockerCLI.DockerEndpoint().Host; got != c.want {
				t.Errorf("host %s, want %s", got, c.want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	exit := exec.Command("/bin/sh", "-c", "exit 7").Run()
	for _, c := range []struct {
		err    error
		code   int
		silent bool
	}{
		{nil, 0, true},
		{errors.New("x"), 1, false},
		{cli.StatusError{StatusCode: 125, Status: "flag"}, 125, false},
		{fmt.Errorf("wrapped: %w", cli.StatusError{StatusCode: 3, Status: "y"}), 3, false},
		{exit, 7, true},
	} {
		if got := exitCode(c.err); got != c.code {
			t.Errorf("%v: status %d, want %d", c.err, got, c.code)
		}
		if got := errorText(c.err); (got == "") != c.silent {
			t.Errorf("%v: prints %q", c.err, got)
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv(client.EnvOverrideHost, "unix://"+t.TempDir()+"/none.sock")
	for _, c := range []struct{ args, want string }{
		{"nonsense", "unknown command"},
		{"service create --nonsense", "unknown flag"},
		{"lab up --name Bad/Name", "not a lab name"},
		{"lab up --nodes 0 --managers 9", "managers"},
		{"lab ls --name nolabofthatname", "no such lab"},
		{"lab exec node1", "requires at least 2 arguments"},
		{"lab kill", "requires at least 1 argument"},
		{"node ls", "Does meshd run there?"},
	} {
		err := run(t.Context(), strings.Fields(c.args))
		if text := errorText(err); !strings.Contains(text, c.want) || exitCode(err) == 0 {
			t.Errorf("meshctl %s: %q, status %d; want %q", c.args, text, exitCode(err), c.want)
		}
	}
}
