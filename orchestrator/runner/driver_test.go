package runner

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// stubDriver is a remote network driver that says yes and makes no links.
type stubDriver struct {
	mu    sync.Mutex
	calls map[string][]map[string]any
}

// stubName is unique: the engine looks for drivers in one directory of the machine.
func stubName() string { return fmt.Sprintf("runner-test-%d", os.Getpid()) }

func newStubDriver(t *testing.T) *stubDriver {
	t.Helper()
	const dir = "/run/docker/plugins"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, stubName()+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	d := &stubDriver{calls: map[string][]map[string]any{}}
	s := &http.Server{Handler: d}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done; _ = os.Remove(path) })
	return d
}

func (d *stubDriver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in map[string]any
	_ = json.NewDecoder(r.Body).Decode(&in)
	call := strings.TrimPrefix(r.URL.Path, "/NetworkDriver.")
	d.mu.Lock()
	d.calls[call] = append(d.calls[call], in)
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/vnd.docker.plugins.v1.1+json")
	out := map[string]any{}
	switch call {
	case "/Plugin.Activate":
		out["Implements"] = []string{"NetworkDriver"}
	case "GetCapabilities":
		out["Scope"] = "local"
	case "CreateEndpoint":
		out["Interface"] = map[string]any{}
	case "Join":
		out["InterfaceName"], out["DisableGatewayService"] = map[string]any{}, true
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (d *stubDriver) seen(call string) []map[string]any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[call]
}

func stubNetwork(id, name string, vni uint32, prefix string, mesh bool) protocol.Network {
	p := netip.MustParsePrefix(prefix)
	return protocol.Network{ID: id, Name: name, VNI: vni, Ingress: mesh,
		Subnets: []protocol.Subnet{{Prefix: p, Gateway: p.Addr().Next()}}}
}

func meshTask(id string, addrs map[string]protocol.Network, order ...string) agent.Task {
	task := testTask(id)
	task.Task.Spec.Networks = nil
	for _, a := range order {
		n := addrs[a]
		prefix := netip.MustParsePrefix(a)
		task.Attachments = append(task.Attachments, agent.Attachment{Network: n, Addrs: []netip.Prefix{prefix}})
		task.Task.NetworksAttachments = append(task.Task.NetworksAttachments, swarm.NetworkAttachment{})
	}
	return task
}

func (f *fixture) testAttach(t *testing.T, d *stubDriver) {
	ing := stubNetwork("ingressid", "ingress", 4096, "10.255.0.0/16", true)
	ov := stubNetwork("ovid", "ov", 4097, "10.0.1.0/24", false)
	resolv := filepath.Join(f.engine.dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 10.255.0.1\noptions ndots:0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.cfg.ResolvConf = resolv
	task := meshTask("mesh1", map[string]protocol.Network{"10.255.0.9/16": ing, "10.0.1.9/24": ov}, "10.255.0.9/16", "10.0.1.9/24")
	task.Task.Spec.ContainerSpec.DNSConfig = &swarm.DNSConfig{Search: []string{"a.example"}}
	id := f.run(t, task)
	res, err := f.engine.api.ContainerInspect(f.ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nets := res.Container.NetworkSettings.Networks
	if len(nets) != 2 || nets["ingress"].IPAddress.String() != "10.255.0.9" || nets["ov"].IPAddress.String() != "10.0.1.9" {
		t.Errorf("networks %+v", nets)
	}
	if got := res.Container.HostConfig.Mounts; len(got) != 1 || got[0].Target != "/etc/resolv.conf" || !got[0].ReadOnly || got[0].Source == resolv {
		t.Errorf("mounts %+v", got)
	}
	for _, e := range d.seen("CreateEndpoint") {
		if o, _ := e["Options"].(map[string]any); o[optTask] != "mesh1" {
			t.Errorf("endpoint without its task: %v", e)
		}
	}
	var vnis []any
	for _, n := range d.seen("CreateNetwork") {
		o, _ := n["Options"].(map[string]any)
		g, _ := o["com.docker.network.generic"].(map[string]any)
		vnis = append(vnis, g[optVNI], g[labelNetwork], g[optMesh])
	}
	if got := fmt.Sprint(vnis); got != "[4096 ingressid true 4097 ovid <nil>]" {
		t.Errorf("networks were made with %s", got)
	}
	f.testNetworkLife(t, id, ov)
}

// testNetworkLife: networks stay while they are used, and one of the same name
// that stands for another network makes way.
func (f *fixture) testNetworkLife(t *testing.T, user string, ov protocol.Network) {
	if err := f.PruneNetworks(f.ctx, []string{"ingressid"}); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		res, err := f.engine.api.NetworkList(f.ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("driver", stubName())})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, n := range res.Items {
			out[n.Name] = n.Labels[labelNetwork]
		}
		return fmt.Sprint(out)
	}
	if got := names(); got != "map[ingress:ingressid ov:ovid]" {
		t.Errorf("a network in use was removed: %s", got)
	}
	again := ov
	again.ID, again.VNI = "ovid2", 4098
	if err := f.ensureNetwork(f.ctx, again); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("old network in use: %v", err)
	}
	if err := f.Remove(f.ctx, user); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(f.cfg.TaskDir); len(files) != 0 {
		t.Errorf("files left: %v", files)
	}
	var wg sync.WaitGroup
	for range 8 { // engines of API 1.41 would make eight
		wg.Go(func() {
			if err := f.ensureNetwork(f.ctx, again); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := names(); got != "map[ingress:ingressid ov:ovid2]" {
		t.Errorf("networks %s", got)
	}
	if err := f.PruneNetworks(f.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "map[]" {
		t.Errorf("not pruned: %s", got)
	}
}
