package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// testPython has Debian's docker SDK for Python drive the swarm.
func testPython(t *testing.T, c *cluster) {
	c.must("/usr/bin/python3", "testdata/sdk.py", "unix://"+c.socket("node1"), image)
}

// gopher drives the swarm with the published Go client.
type gopher struct {
	*cluster
	*client.Client
	ctx context.Context
}

// did ends the test when a call has failed.
func (g gopher) did(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func newGopher(t *testing.T, c *cluster) gopher {
	t.Helper()
	api, err := client.New(client.WithHost("unix://" + c.socket("node1")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	return gopher{c, api, ctx}
}

func testGoClient(t *testing.T, c *cluster) {
	g := newGopher(t, c)
	api, ctx := g.Client, g.ctx
	began := time.Now()
	following := api.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "service", "secret", "config", "network").Add("scope", "swarm")})
	g.swarm()
	g.nodes()
	secret, config, net := g.payloads()
	g.services(secret, config, net)
	_, err := api.SecretRemove(ctx, secret, client.SecretRemoveOptions{})
	g.did(err)
	_, err = api.ConfigRemove(ctx, config, client.ConfigRemoveOptions{})
	g.did(err)
	c.eventually("the network is free", func() error {
		_, err := api.NetworkRemove(ctx, net, client.NetworkRemoveOptions{})
		return err
	})
	g.events(following, began)
}

// swarm looks at the swarm, gives it other tokens, and is refused with an old version.
func (g gopher) swarm() {
	g.t.Helper()
	was, err := g.SwarmInspect(g.ctx, client.SwarmInspectOptions{})
	g.did(err)
	update := client.SwarmUpdateOptions{Version: was.Swarm.Version, Spec: was.Swarm.Spec, RotateWorkerToken: true}
	_, err = g.SwarmUpdate(g.ctx, update)
	g.did(err)
	is, err := g.SwarmInspect(g.ctx, client.SwarmInspectOptions{})
	g.did(err)
	if is.Swarm.JoinTokens.Worker == was.Swarm.JoinTokens.Worker || is.Swarm.JoinTokens.Manager != was.Swarm.JoinTokens.Manager {
		g.t.Errorf("tokens %+v became %+v", was.Swarm.JoinTokens, is.Swarm.JoinTokens)
	}
	if _, err := g.SwarmUpdate(g.ctx, update); err == nil || !strings.Contains(err.Error(), "update out of sequence") {
		g.t.Errorf("an update with an old version: %v", err)
	}
	key, err := g.SwarmGetUnlockKey(g.ctx)
	if g.did(err); key.Key != "" {
		g.t.Errorf("without autolock the unlock key is %q", key.Key)
	}
}

func (g gopher) nodes() {
	g.t.Helper()
	list, err := g.NodeList(g.ctx, client.NodeListOptions{Filters: client.Filters{}.Add("role", "worker")})
	if g.did(err); len(list.Items) != 1 || list.Items[0].Description.Hostname != "node2" {
		g.t.Fatalf("workers: %+v", list.Items)
	}
	n := list.Items[0]
	label := func(labels map[string]string) {
		one, err := g.NodeInspect(g.ctx, n.ID, client.NodeInspectOptions{})
		g.did(err)
		one.Node.Spec.Labels = labels
		_, err = g.NodeUpdate(g.ctx, n.ID, client.NodeUpdateOptions{Version: one.Node.Version, Spec: one.Node.Spec})
		g.did(err)
	}
	label(map[string]string{"gopher": "yes"})
	list, err = g.NodeList(g.ctx, client.NodeListOptions{Filters: client.Filters{}.Add("node.label", "gopher=yes")})
	if g.did(err); len(list.Items) != 1 {
		g.t.Errorf("nodes with the label: %+v", list.Items)
	}
	label(nil)
}

// payloads makes a secret, a config and a network.
func (g gopher) payloads() (secret, config, net string) {
	g.t.Helper()
	name := swarm.Annotations{Name: "go-payload", Labels: map[string]string{"by": "go"}}
	s, err := g.SecretCreate(g.ctx, client.SecretCreateOptions{Spec: swarm.SecretSpec{Annotations: name, Data: []byte("sesame")}})
	g.did(err)
	c, err := g.ConfigCreate(g.ctx, client.ConfigCreateOptions{Spec: swarm.ConfigSpec{Annotations: name, Data: []byte("plain")}})
	g.did(err)
	made, err := g.SecretInspect(g.ctx, s.ID, client.SecretInspectOptions{})
	if g.did(err); made.Secret.Spec.Data != nil {
		g.t.Errorf("the secret is shown: %q", made.Secret.Spec.Data)
	}
	made.Secret.Spec.Labels["more"] = "yes"
	_, err = g.SecretUpdate(g.ctx, s.ID, client.SecretUpdateOptions{Version: made.Secret.Version, Spec: made.Secret.Spec})
	g.did(err)
	some, err := g.SecretList(g.ctx, client.SecretListOptions{Filters: client.Filters{}.Add("label", "more=yes")})
	if g.did(err); len(some.Items) != 1 || some.Items[0].ID != s.ID {
		g.t.Errorf("secrets with the label: %+v", some.Items)
	}
	n, err := g.NetworkCreate(g.ctx, "go-net", client.NetworkCreateOptions{
		Driver: "overlay", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.78.0.0/24")}}},
	})
	g.did(err)
	seen, err := g.NetworkInspect(g.ctx, "go-net", client.NetworkInspectOptions{Scope: "swarm", Verbose: true})
	if g.did(err); seen.Network.ID != n.ID || seen.Network.Status == nil {
		g.t.Errorf("the network: %+v", seen.Network)
	}
	return s.ID, c.ID, n.ID
}

// services takes one through its life, and looks at its tasks and logs.
func (g gopher) services(secret, config, net string) {
	g.t.Helper()
	replicas := uint64(2)
	file := func(name string) string { return "go-" + name }
	spec := swarm.ServiceSpec{Annotations: swarm.Annotations{Name: "gopher"}, Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}}}
	spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{
		Image:   image,
		Secrets: []*swarm.SecretReference{{SecretID: secret, SecretName: "go-payload", File: &swarm.SecretReferenceFileTarget{Name: file("secret"), UID: "0", GID: "0", Mode: 0o400}}},
		Configs: []*swarm.ConfigReference{{ConfigID: config, ConfigName: "go-payload", File: &swarm.ConfigReferenceFileTarget{Name: file("config"), UID: "0", GID: "0", Mode: 0o444}}},
	}
	spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: net}}
	made, err := g.ServiceCreate(g.ctx, client.ServiceCreateOptions{Spec: spec})
	g.did(err)
	running := client.Filters{}.Add("service", "gopher").Add("desired-state", "running")
	g.eventually("both tasks run", func() error {
		tasks, err := g.TaskList(g.ctx, client.TaskListOptions{Filters: running})
		if err != nil {
			return err
		}
		for _, tk := range tasks.Items {
			one, err := g.TaskInspect(g.ctx, tk.ID, client.TaskInspectOptions{})
			if err != nil || one.Task.Status.State != swarm.TaskStateRunning || len(one.Task.NetworksAttachments) == 0 {
				return fmt.Errorf("task %+v: %v", one.Task.Status, err)
			}
		}
		if len(tasks.Items) != 2 {
			return fmt.Errorf("%d tasks", len(tasks.Items))
		}
		return nil
	})
	g.eventually("both tasks have said something", func() error {
		stream, err := g.ServiceLogs(g.ctx, made.ID, client.ServiceLogsOptions{ShowStdout: true, ShowStderr: true, Tail: "1"})
		if err != nil {
			return err
		}
		defer stream.Close()
		var out, errs bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &errs, stream); err != nil || strings.Count(errs.String(), "serves on") != 2 {
			return fmt.Errorf("%v: %q", err, errs.String())
		}
		return nil
	})
	one, err := g.ServiceInspect(g.ctx, "gopher", client.ServiceInspectOptions{InsertDefaults: true})
	if g.did(err); one.Service.Spec.UpdateConfig == nil || len(one.Service.Endpoint.VirtualIPs) == 0 {
		g.t.Errorf("the service: %+v", one.Service)
	}
	replicas = 1
	_, err = g.ServiceUpdate(g.ctx, made.ID, client.ServiceUpdateOptions{Version: one.Service.Version, Spec: spec})
	g.did(err)
	g.eventually("one task is left", func() error {
		list, err := g.ServiceList(g.ctx, client.ServiceListOptions{Status: true, Filters: client.Filters{}.Add("name", "gopher")})
		if err != nil || len(list.Items) != 1 || list.Items[0].ServiceStatus == nil || *list.Items[0].ServiceStatus != (swarm.ServiceStatus{RunningTasks: 1, DesiredTasks: 1}) {
			return fmt.Errorf("%+v, %v", list.Items, err)
		}
		return nil
	})
	_, err = g.ServiceRemove(g.ctx, made.ID, client.ServiceRemoveOptions{})
	g.did(err)
}

// events compares what a follower was told with what is told of the same time afterwards.
func (g gopher) events(following client.EventsResult, began time.Time) {
	g.t.Helper()
	brief := func(m events.Message) string {
		return fmt.Sprint(m.Type, " ", m.Action, " ", m.Actor.Attributes, " ", m.TimeNano)
	}
	var live, past []string
	for last := ""; last != "network remove"; {
		select {
		case m := <-following.Messages:
			live, last = append(live, brief(m)), fmt.Sprint(m.Type, " ", m.Action)
		case err := <-following.Err:
			g.t.Fatalf("the stream of events: %v after %q", err, live)
		}
	}
	stamp := func(at time.Time) string { return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond()) }
	kept := g.Events(g.ctx, client.EventsListOptions{
		Since: stamp(began), Until: stamp(time.Now()), Filters: client.Filters{}.Add("type", "service", "secret", "config", "network").Add("scope", "swarm"),
	})
	for err := error(nil); err == nil; {
		select {
		case m := <-kept.Messages:
			past = append(past, brief(m))
		case err = <-kept.Err:
			if !errors.Is(err, io.EOF) {
				g.t.Fatalf("the events of the past: %v", err)
			}
		}
	}
	if !slices.Equal(live, past) {
		g.t.Errorf("a follower was told\n%s\nafterwards\n%s", strings.Join(live, "\n"), strings.Join(past, "\n"))
	}
	for _, want := range []string{"secret create", "secret update", "config create", "network create", "service create", "replicas.new:1", "service remove", "secret remove", "config remove"} {
		if !strings.Contains(strings.Join(past, "\n"), want) {
			g.t.Errorf("no event says %q:\n%s", want, strings.Join(past, "\n"))
		}
	}
}
