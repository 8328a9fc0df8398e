package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// clients are the official clients of this machine, beside meshctl: distributions have old ones, Docker's own packages new ones.
func clients(t *testing.T) []string {
	t.Helper()
	var found, versions []string
	for _, path := range []string{"/usr/bin/docker", "/usr/local/bin/docker"} {
		if !isFile(path) {
			continue
		}
		c := cluster{t: t}
		if version := c.must(path, "--version"); !slices.Contains(versions, version) {
			found, versions = append(found, path), append(versions, version)
		}
	}
	if len(found) == 0 {
		t.Fatal("no official client on this machine: make setup installs one")
	}
	t.Logf("%q", versions)
	return found
}

// as runs any client against a node.
func (c *cluster) as(client, node string, args ...string) result {
	c.t.Helper()
	return c.runEnv(client, []string{"DOCKER_HOST=unix://" + c.socket(node)}, append([]string{client}, args...)...)
}

// testClientsAgree has each client say the same of the same cluster: what it prints, in every form, and how it ends.
func testClientsAgree(t *testing.T, c *cluster) {
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "seen-net")
	c.mustDocker("node1", "secret", "create", "--label", "a=b", "seen-secret", temporary(t, "x"))
	c.mustDocker("node1", "config", "create", "seen-config", temporary(t, "x"))
	c.create("seen", "--network", "seen-net", "--replicas", "2", "--secret", "seen-secret", "--config", "seen-config", "--label", "tier=web", image)
	c.running("node1", "seen", 2)
	commands := [][]string{
		{"node", "ls", "--quiet"}, {"node", "ls", "--filter", "role=manager", "--format", "{{.Hostname}} {{.ManagerStatus}} {{.TLSStatus}}"},
		{"node", "ls", "--filter", "nonsense=1"},
		{"node", "inspect", "--format", "{{.Description.Hostname}}", "self"}, {"node", "inspect", "nobody"},
		{"node", "ps", "--no-resolve", "--quiet", "node2"},
		{"service", "ls"}, {"service", "ls", "-q"}, {"service", "ls", "--filter", "label=tier=web", "--format", "{{.Name}} {{.Replicas}} {{.Ports}}"},
		{"service", "ps", "--format", "{{.Name}} {{.Node}} {{.DesiredState}}", "seen"}, {"service", "ps", "--no-trunc", "-q", "seen"},
		{"service", "ps", "nobody"}, {"service", "inspect", "--format", "{{json .Spec.Labels}}", "seen"}, {"service", "inspect", "nobody"},
		{"service", "rm", "nobody"}, {"service", "scale", "nobody=1"}, {"service", "update", "--nonsense", "seen"}, {"service", "logs", "nobody"},
		{"secret", "ls", "--format", "{{.Name}} {{.Driver}} {{.Labels}}"}, {"secret", "ls", "-q", "--filter", "label=a=b"}, {"secret", "inspect", "seen-secret"},
		{"secret", "rm", "seen-secret"}, {"config", "ls", "-q"}, {"config", "inspect", "--format", "{{json .Spec}}", "seen-config"}, {"config", "rm", "nobody"},
		{"network", "ls", "--filter", "scope=swarm", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"}, {"network", "ls", "-q", "--no-trunc"},
		{"network", "inspect", "--format", "{{.Driver}} {{.Scope}}", "seen-net"}, {"network", "inspect", "nobody"},
		{"stack", "ls", "--format", "{{.Name}}"}, {"stack", "ps", "nobody"}, {"stack", "services", "nobody"}, {"stack", "deploy", "x"},
		{"swarm", "join-token", "-q", "worker"}, {"swarm", "unlock-key"}, {"swarm", "init"}, {"swarm", "leave"},
		{"info", "--format", "{{.Swarm.NodeID}} {{.Swarm.Managers}}"}, {"version", "--format", "{{.Server.Version}}"},
		{"events", "--since", "1h", "--until", "1s", "--filter", "type=secret", "--format", "{{.Type}} {{.Action}}"},
	}
	officials := clients(t)
	for _, args := range commands {
		have := c.meshctl("node1", args...)
		for _, official := range officials {
			if want := c.as(official, "node1", args...); want.out != have.out || want.code != have.code {
				t.Errorf("%s %s: %v\nmeshctl: %v", official, strings.Join(args, " "), want, have)
			}
		}
	}
	c.mustDocker("node1", "service", "rm", "seen")
}

var shortFlag = regexp.MustCompile(`(?m)^\s+(-\w,)?\s+(--[a-z0-9-]+)`)

// testHelp asks each official client for its commands and flags: meshctl has them, whatever the inventory says.
func testHelp(t *testing.T, c *cluster) {
	groups := []string{"swarm", "node", "service", "stack", "network", "secret", "config"}
	// What one client had and later ones gave up.
	gone := []string{"--kubeconfig", "--orchestrator", "--namespace", "--all-namespaces", "--bundle-file"}
	help := map[string]string{} // meshctl's, by command
	for _, official := range clients(t) {
		seen := 0
		commands := [][]string{{"info"}, {"version"}, {"events"}, {"logs"}}
		for _, group := range groups {
			for _, m := range regexp.MustCompile(`(?m)^  ([a-z-]+)\s+\w`).FindAllStringSubmatch(c.as(official, "node1", group, "--help").out, -1) {
				commands = append(commands, []string{group, m[1]})
			}
		}
		for _, cmd := range commands {
			name := strings.Join(cmd, " ")
			if help[name] == "" {
				help[name] = strings.Join(strings.Fields(c.meshctl("node1", append(cmd, "--help")...).out), " ")
			}
			if !strings.Contains(help[name], "meshctl "+name) {
				t.Errorf("%s has %q, meshctl says %s", official, name, help[name])
				continue
			}
			for _, m := range shortFlag.FindAllStringSubmatch(c.as(official, "node1", append(cmd, "--help")...).out, -1) {
				seen++
				if want := m[1] + " " + m[2]; !slices.Contains(gone, m[2]) && !strings.Contains(help[name], strings.TrimSpace(want)) {
					t.Errorf("%s %s has %s, meshctl has not", official, name, want)
				}
			}
		}
		if len(commands) < 40 || seen < 200 {
			t.Errorf("%s: only %d commands and %d flags were found in its help", official, len(commands), seen)
		}
	}
}

// testCompletion completes the names of what there is.
func testCompletion(t *testing.T, c *cluster) {
	c.create("completed", "--replicas", "0", image)
	for _, tc := range []struct{ want, line string }{
		{"completed", "service inspect "}, {"completed", "service exec "}, {"completed", "service restart "},
		{"node2", "node update "}, {"seen-secret", "secret rm "}, {"seen-net", "network inspect "}, {"node1,node2", "lab partition --name " + c.name + " node1,"},
	} {
		args := append([]string{"__complete"}, strings.Fields(tc.line)...)
		if strings.HasSuffix(tc.line, " ") {
			args = append(args, "")
		}
		if r := c.meshctl("node1", args...); !slices.Contains(strings.Fields(r.out), tc.want) {
			t.Errorf("%q completes %v, want %s among it", tc.line, r, tc.want)
		}
	}
	c.mustDocker("node1", "service", "rm", "completed")
}

// testStacks has one client manage what another deployed: what they make is the same, down to the last field.
func testStacks(t *testing.T, c *cluster) {
	const file, more = "../../cmd/meshctl/testdata/format3.yaml", "../../cmd/meshctl/testdata/specification.yaml"
	t.Setenv("KEY", "sesame")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "outside")
	for _, official := range clients(t) {
		if r := c.as(official, "node1", "stack", "config", "--help"); strings.Contains(r.out, "stack config") {
			if want, have := c.as(official, "node1", "stack", "config", "-c", file), c.meshctl("node1", "stack", "config", "-c", file); want.code != 0 || want.out != have.out {
				t.Errorf("stack config: %s: %v\nmeshctl: %v", official, want, have)
			}
		}
		deploy := []string{"stack", "deploy", "--resolve-image", "never", "-c", file, "shop"}
		c.deployed(c.as(official, "node1", deploy...))
		theirs := c.specs()
		c.deployed(c.meshctl("node1", deploy...)) // takes over what is there
		if again := c.specs(); again != theirs {
			t.Errorf("meshctl changed what %s had deployed:\n%s\nto\n%s", official, theirs, again)
		}
		if r := c.meshctl("node1", "stack", "services", "--format", "{{.Name}}", "shop"); r.out != "shop_every\nshop_web" {
			t.Errorf("stack services: %v", r)
		}
		c.removed(c.meshctl("node1", "stack", "rm", "shop"))
		c.deployed(c.meshctl("node1", deploy...))
		if ours := c.specs(); ours != theirs {
			t.Errorf("%s deploys\n%s\nmeshctl\n%s", official, theirs, ours)
		}
		if r := c.as(official, "node1", "stack", "ls", "--format", "{{.Name}} {{.Services}}"); r.out != "shop 2" {
			t.Errorf("stack ls: %v", r)
		}
		c.removed(c.as(official, "node1", "stack", "rm", "shop"))
	}
	// The Specification, and --prune of what the file before had.
	c.deployed(c.meshctl("node1", "stack", "deploy", "--resolve-image", "never", "-c", file, "shop"))
	r := c.meshctl("node1", "stack", "deploy", "--detach=true", "--resolve-image", "never", "--prune", "-c", more, "shop")
	if strings.Count(r.err, "Ignoring unsupported options") != 1 || !strings.Contains(r.err, "develop") {
		t.Errorf("want one warning: %v", r)
	}
	c.deployed(r)
	if r := c.meshctl("node1", "stack", "services", "--format", "{{.Name}}", "shop"); r.out != "shop_db\nshop_web" {
		t.Errorf("after --prune: %v", r)
	}
	got := c.mustDocker("node1", "service", "inspect", "--format",
		"{{.Spec.TaskTemplate.ContainerSpec.Groups}} {{.Spec.TaskTemplate.ContainerSpec.DNSConfig.Options}}", "shop_web")
	if got != "[100] [ndots:3]" {
		t.Errorf("group_add and dns_opt became %s", got)
	}
	c.removed(c.meshctl("node1", "stack", "rm", "shop"))
	c.mustDocker("node1", "network", "rm", "outside")
}

func (c *cluster) deployed(r result) {
	c.t.Helper()
	if r.code != 0 {
		c.t.Fatalf("stack deploy: %v", r)
	}
}

// removed waits until nothing of the stack is left: networks go when their last task has ended.
func (c *cluster) removed(r result) {
	c.t.Helper()
	if r.code != 0 {
		c.t.Fatalf("stack rm: %v", r)
	}
	c.eventually("nothing of the stack is left", func() error {
		for _, kind := range []string{"service", "network", "secret", "config"} {
			if left := c.mustDocker("node1", kind, "ls", "-q", "--filter", "label=com.docker.stack.namespace=shop"); left != "" {
				return fmt.Errorf("%ss %s", kind, left)
			}
		}
		return nil
	})
}

// changing is what differs between two objects of one spec: IDs, in which order clients create them.
var changing = regexp.MustCompile(`"(SecretID|ConfigID|Target)":"[a-z0-9]{25}"`)

// specs are those of all that belongs to the stack.
func (c *cluster) specs() string {
	c.t.Helper()
	var all []string
	for _, kind := range []string{"service", "secret", "config"} {
		ids := strings.Fields(c.mustDocker("node1", kind, "ls", "-q", "--filter", "label=com.docker.stack.namespace=shop"))
		if len(ids) == 0 {
			c.t.Fatalf("the stack has no %s", kind)
		}
		all = append(all, c.mustDocker("node1", append([]string{kind, "inspect", "--format", "{{json .Spec}}"}, ids...)...))
	}
	all = append(all, c.mustDocker("node1", "network", "inspect", "--format", `{{.Driver}} {{index .Options "com.docker.network.driver.mtu"}} {{json .Labels}} {{json .IPAM}}`, "shop_front"))
	lines := strings.Split(changing.ReplaceAllString(strings.Join(all, "\n"), `"$1":"-"`), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
