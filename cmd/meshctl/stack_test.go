package main

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/cli/cli/command"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// meshctlHere runs a command that asks no daemon.
func meshctlHere(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	var out, errs bytes.Buffer
	dockerCLI := newTestCLI(t, command.WithInputStream(io.NopCloser(strings.NewReader(stdin))), command.WithOutputStream(&out), command.WithErrorStream(&errs))
	top := newTopLevel(dockerCLI)
	top.SetArgs(args)
	root, rest, err := top.HandleGlobalFlags()
	if err == nil {
		err = top.Initialize()
	}
	if err != nil {
		t.Fatal(err)
	}
	root.SetArgs(rest)
	err = root.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestSpecificationIsReduced(t *testing.T) {
	t.Setenv("KEY", "sesame")
	out, errs, err := meshctlHere(t, "", "stack", "config", "-c", "testdata/specification.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const warning = "Ignoring unsupported options: build, container_name, deploy.resources.reservations.devices, develop, networks.ipv4_address, ports.host_ip, restart, volumes.tmpfs.mode\n\n"
	if errs != warning {
		t.Errorf("warning %q\nwant %q", errs, warning)
	}
	here, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/specification.want.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "HERE", here), out); diff != "" {
		t.Errorf("want-, have+:\n%s", diff)
	}
	if strings.Contains(out, "sesame") {
		t.Error("the secret is printed")
	}
}

// reading gives a stack of the files.
func reading(t *testing.T, names ...string) (*composeSource, *reduced) {
	t.Helper()
	s := &composeSource{names: names, stack: "shop"}
	if err := s.read(strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if s.dockerReads() {
		return s, nil
	}
	r, err := s.reduce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.close() }) // a test's files in memory
	return s, r
}

func TestDockerReadsItsOwnFormat(t *testing.T) {
	if s, r := reading(t, "testdata/format3.yaml"); r != nil {
		t.Errorf("docker's reader refuses the format 3.x: %v", s.refusal)
	}
}

// recorder keeps what is created.
type recorder struct {
	client.APIClient
	service swarm.ServiceSpec
	network client.NetworkCreateOptions
}

func (r *recorder) ServiceCreate(_ context.Context, o client.ServiceCreateOptions) (client.ServiceCreateResult, error) {
	r.service = o.Spec
	return client.ServiceCreateResult{}, nil
}

func (r *recorder) NetworkCreate(_ context.Context, _ string, o client.NetworkCreateOptions) (client.NetworkCreateResult, error) {
	r.network = o
	return client.NetworkCreateResult{}, nil
}

func TestAdditionsReachTheSpecs(t *testing.T) {
	t.Setenv("KEY", "sesame")
	_, r := reading(t, "testdata/specification.yaml")
	var kept recorder
	c := &stackClient{APIClient: &kept, stack: "shop", more: r.more}
	spec := swarm.ServiceSpec{Annotations: swarm.Annotations{Name: "shop_web"}, TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{}}}
	if _, err := c.ServiceCreate(t.Context(), client.ServiceCreateOptions{Spec: spec}); err != nil {
		t.Fatal(err)
	}
	got := kept.service.TaskTemplate.ContainerSpec
	if !slices.Equal(got.Groups, []string{"100"}) || !slices.Equal(got.DNSConfig.Options, []string{"ndots:3"}) || !got.Privileges.NoNewPrivileges {
		t.Errorf("the service is %+v", got)
	}
	if _, err := c.NetworkCreate(t.Context(), "shop_front", client.NetworkCreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if kept.network.EnableIPv6 == nil || !*kept.network.EnableIPv6 || kept.network.IPAM == nil ||
		len(kept.network.IPAM.Config) != 1 || kept.network.IPAM.Config[0].Gateway != netip.MustParseAddr("10.90.0.1") {
		t.Errorf("the network is %+v", kept.network)
	}
}

func TestSwapIsWhatIsAboveTheMemory(t *testing.T) {
	_, r := reading(t, write(t, "services: {a: {image: x, mem_limit: 64m, memswap_limit: 96m, mem_swappiness: 10}}"))
	spec := swarm.ServiceSpec{TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{}}}
	r.more.services["a"](&spec)
	if got := spec.TaskTemplate.Resources; *got.SwapBytes != 32<<20 || *got.MemorySwappiness != 10 {
		t.Errorf("resources %+v", got)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Files of both kinds together, from stdin too, are merged in order.
func TestFilesAreMerged(t *testing.T) {
	first := write(t, "services: {a: {image: x, environment: {A: '1'}, group_add: [g]}}")
	out, _, err := meshctlHere(t, "services: {a: {environment: {B: $WHAT}}}", "stack", "config", "-c", first, "-c", "-")
	if err != nil || !strings.Contains(out, `A: "1"`) || !strings.Contains(out, `B: ""`) {
		t.Errorf("%v:\n%s", err, out)
	}
	raw, _, err := meshctlHere(t, "services: {a: {image: x, group_add: [g], environment: {B: $WHAT}}}", "stack", "config", "--skip-interpolation", "-c", "-")
	if err != nil || !strings.Contains(raw, "B: $WHAT") {
		t.Errorf("%v:\n%s", err, raw)
	}
}

func TestBadComposeFiles(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no YAML", "services: [", "did not find"},
		{"typing error in the old format", "version: '3.8'\nservices: {a: {image: x, imagee: y}}", "services.a: additional property 'imagee' is not allowed"},
		{"typing error in the new one", "services: {a: {image: x, imagee: y}}", "imagee"},
		{"range of ports", "services: {a: {image: x, group_add: [g], ports: [{target: 80, published: 8000-8010}]}}", "one number is needed"},
		{"option that Swarm has not", "services: {a: {image: x, security_opt: [label=user:u]}}", "Swarm cannot do label=user:u"},
		{"missing variable", "services: {a: {image: x}}\nsecrets: {s: {environment: MESHD_TEST_MISSING}}", "secrets.s: the environment has no MESHD_TEST_MISSING"},
		{"no file", "", "specify a Compose file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"stack", "config"}
			if c.text != "" {
				args = append(args, "-c", write(t, c.text))
			}
			if out, _, err := meshctlHere(t, "", args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q\n%s", err, c.want, out)
			}
		})
	}
}
