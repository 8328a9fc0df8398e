package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshd/meshd/overlay"
)

// fakeOverlay remembers who is attached.
type fakeOverlay struct {
	mu       sync.Mutex
	attached map[string]overlay.Attachment
	err      error
}

func (f *fakeOverlay) Attach(a overlay.Attachment) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return "", f.err
	}
	f.attached[a.ID] = a
	return "mp" + a.ID[:12], nil
}

func (f *fakeOverlay) Detach(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, id)
	return f.err
}

func (f *fakeOverlay) all() map[string]overlay.Attachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]overlay.Attachment{}
	for k, v := range f.attached {
		out[k] = v
	}
	return out
}

// engine speaks to a driver as dockerd does.
type engine struct {
	t       *testing.T
	dir     string
	overlay *fakeOverlay
	client  http.Client
	stop    func()
}

func newEngine(t *testing.T) *engine {
	e := &engine{t: t, dir: t.TempDir(), overlay: &fakeOverlay{attached: map[string]overlay.Attachment{}}}
	e.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket())
	}}
	e.start()
	t.Cleanup(func() { e.stop() })
	return e
}

func (e *engine) socket() string { return filepath.Join(e.dir, "plugins", "meshd.sock") }

func (e *engine) start() {
	e.t.Helper()
	d, err := New(Config{Socket: e.socket(), Overlay: e.overlay, Dir: filepath.Join(e.dir, "run")})
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("run: %v", err)
		}
		e.client.CloseIdleConnections()
	})
}

// call posts a literal body and gives the answer's fields.
func (e *engine) call(method, body string) map[string]any {
	e.t.Helper()
	r, err := e.client.Post("http://plugin/"+method, contentType, bytes.NewBufferString(body))
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Body.Close()
	if got := r.Header.Get("Content-Type"); r.StatusCode != http.StatusOK || got != contentType {
		e.t.Fatalf("%s: status %d, content type %s", method, r.StatusCode, got)
	}
	var out map[string]any
	if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
		e.t.Fatal(err)
	}
	return out
}

func (e *engine) must(method, body string, want map[string]any) {
	e.t.Helper()
	if diff := cmp.Diff(want, e.call(method, body), cmpopts.EquateEmpty()); diff != "" {
		e.t.Fatalf("%s (-want +got):\n%s", method, diff)
	}
}

const (
	createMesh = `{"NetworkID":"n1","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{"mesh.network":"swarmnet1","mesh.vni":"4096","mesh.mesh":"true"}},
		"IPv4Data":[{"AddressSpace":"LocalDefault","Gateway":"10.255.0.1/16","Pool":"10.255.0.0/16"}],"IPv6Data":[]}`
	createUser = `{"NetworkID":"n2","Options":{"com.docker.network.generic":{"mesh.network":"swarmnet2","mesh.vni":"4097"}},
		"IPv4Data":[{"Gateway":"10.0.1.1/24","Pool":"10.0.1.0/24"}]}`
	endpointMesh = `{"NetworkID":"n1","EndpointID":"aaaaaaaaaaaaaaaa","Interface":{"Address":"10.255.0.7/16","AddressIPv6":"","MacAddress":""},
		"Options":{"mesh.task":"task1","com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}],"com.docker.network.portmap":null}}`
	endpointUser = `{"NetworkID":"n2","EndpointID":"bbbbbbbbbbbbbbbb","Interface":{"Address":"10.0.1.7/24","MacAddress":"02:42:aa:bb:cc:dd"},"Options":{}}`
	joinMesh     = `{"NetworkID":"n1","EndpointID":"aaaaaaaaaaaaaaaa","SandboxKey":"/var/run/docker/netns/x","Options":{}}`
	joinUser     = `{"NetworkID":"n2","EndpointID":"bbbbbbbbbbbbbbbb","SandboxKey":"/var/run/docker/netns/x","Options":{}}`
)

// A network may have several subnets; a container has an address of one.
func TestOtherSubnetsAreReached(t *testing.T) {
	e := newEngine(t)
	e.must("NetworkDriver.CreateNetwork", `{"NetworkID":"n3","Options":{"com.docker.network.generic":{"mesh.network":"swarmnet3","mesh.vni":"4098"}},
		"IPv4Data":[{"Gateway":"10.1.0.1/24","Pool":"10.1.0.0/24"},{"Gateway":"10.2.0.1/24","Pool":"10.2.0.0/24"}],
		"IPv6Data":[{"Gateway":"fd00::1/64","Pool":"fd00::/64"}]}`, nil)
	e.must("NetworkDriver.CreateEndpoint", `{"NetworkID":"n3","EndpointID":"cccccccccccccccc","Interface":{"Address":"10.2.0.7/24","MacAddress":"02:42:aa:bb:cc:dd"}}`,
		map[string]any{"Interface": map[string]any{}})
	e.must("NetworkDriver.Join", `{"NetworkID":"n3","EndpointID":"cccccccccccccccc"}`, map[string]any{
		"InterfaceName":         map[string]any{"SrcName": "mpcccccccccccc", "DstPrefix": "eth"},
		"StaticRoutes":          []any{map[string]any{"Destination": "10.1.0.0/24", "RouteType": 1.0}},
		"DisableGatewayService": true,
	})
}

func TestTheEngineAttachesAContainer(t *testing.T) {
	e := newEngine(t)
	e.must("Plugin.Activate", ``, map[string]any{"Implements": []any{"NetworkDriver"}})
	e.must("NetworkDriver.GetCapabilities", ``, map[string]any{"Scope": "local", "ConnectivityScope": "global"})
	e.must("NetworkDriver.CreateNetwork", createMesh, nil)
	e.must("NetworkDriver.CreateNetwork", createUser, nil)
	e.must("NetworkDriver.CreateEndpoint", endpointMesh,
		map[string]any{"Interface": map[string]any{"MacAddress": "02:42:0a:ff:00:07"}})
	e.must("NetworkDriver.CreateEndpoint", endpointUser, map[string]any{"Interface": map[string]any{}})
	if got := e.overlay.all(); len(got) != 0 {
		t.Errorf("attached before Join: %v", got)
	}
	e.must("NetworkDriver.Join", joinMesh, map[string]any{
		"InterfaceName": map[string]any{"SrcName": "mpaaaaaaaaaaaa", "DstPrefix": "eth"},
		"Gateway":       "10.255.0.1", "DisableGatewayService": true,
	})
	e.must("NetworkDriver.Join", joinUser, map[string]any{
		"InterfaceName":         map[string]any{"SrcName": "mpbbbbbbbbbbbb", "DstPrefix": "eth"},
		"DisableGatewayService": true,
	})
	e.must("NetworkDriver.EndpointOperInfo", joinUser, map[string]any{"Value": map[string]any{}})
	e.must("NetworkDriver.ProgramExternalConnectivity", joinUser, nil)
	want := map[string]overlay.Attachment{
		"aaaaaaaaaaaaaaaa": {
			ID: "aaaaaaaaaaaaaaaa", NetworkID: "swarmnet1", VNI: 4096, Mesh: true, TaskID: "task1",
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.255.0.7/16")}, MAC: "02:42:0a:ff:00:07",
		},
		"bbbbbbbbbbbbbbbb": {
			ID: "bbbbbbbbbbbbbbbb", NetworkID: "swarmnet2", VNI: 4097,
			Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.7/24")}, MAC: "02:42:aa:bb:cc:dd",
		},
	}
	if diff := cmp.Diff(want, e.overlay.all(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
	for range 2 { // the engine may repeat itself
		e.must("NetworkDriver.RevokeExternalConnectivity", joinMesh, nil)
		e.must("NetworkDriver.Leave", joinMesh, nil)
		e.must("NetworkDriver.DeleteEndpoint", joinMesh, nil)
	}
	if got := e.overlay.all(); len(got) != 1 {
		t.Errorf("after Leave: %v", got)
	}
	e.must("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`, nil)
	if got := e.call("NetworkDriver.CreateEndpoint", endpointMesh); got["Err"] == nil {
		t.Errorf("endpoint on a deleted network: %v", got)
	}
}

func TestTheEngineAttachesAContainerByIPv6(t *testing.T) {
	e := newEngine(t)
	e.must("NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.enable_ipv6":true,"com.docker.network.generic":{"mesh.vni":"4096","mesh.mesh":"true"}},
		"IPv4Data":[{"Gateway":"10.255.0.1/16","Pool":"10.255.0.0/16"}],"IPv6Data":[{"Gateway":"fd00::1/64","Pool":"fd00::/64"}]}`, nil)
	e.must("NetworkDriver.CreateEndpoint",
		`{"NetworkID":"n1","EndpointID":"aaaaaaaaaaaaaaaa","Interface":{"Address":"10.255.0.7/16","AddressIPv6":"fd00::7/64"},"Options":{}}`,
		map[string]any{"Interface": map[string]any{"MacAddress": "02:42:0a:ff:00:07"}})
	e.must("NetworkDriver.Join", joinMesh, map[string]any{
		"InterfaceName": map[string]any{"SrcName": "mpaaaaaaaaaaaa", "DstPrefix": "eth"},
		"Gateway":       "10.255.0.1", "GatewayIPv6": "fd00::1", "DisableGatewayService": true,
	})
	e.must("NetworkDriver.CreateEndpoint",
		`{"NetworkID":"n1","EndpointID":"bbbbbbbbbbbbbbbb","Interface":{"AddressIPv6":"fd00::0102:0304/64"},"Options":{}}`,
		map[string]any{"Interface": map[string]any{"MacAddress": "02:42:01:02:03:04"}})
	want := []netip.Prefix{netip.MustParsePrefix("10.255.0.7/16"), netip.MustParsePrefix("fd00::7/64")}
	if got := e.overlay.all()["aaaaaaaaaaaaaaaa"].Addrs; !slices.Equal(got, want) {
		t.Errorf("addresses: %v", got)
	}
}

// An engine that knows no networks without IPv4 gives addresses that nobody asked for.
func TestTheEngineAttachesAContainerWithoutIPv4(t *testing.T) {
	e := newEngine(t)
	e.must("NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.generic":{"mesh.vni":"4097","mesh.mesh":"true","mesh.no-ipv4":"true"}},
		"IPv4Data":[{"Gateway":"240.64.4.1/22","Pool":"240.64.4.0/22"}],"IPv6Data":[{"Gateway":"fd00::1/64","Pool":"fd00::/64"}]}`, nil)
	e.must("NetworkDriver.CreateEndpoint",
		`{"NetworkID":"n1","EndpointID":"aaaaaaaaaaaaaaaa","Interface":{"Address":"240.64.4.2/22","AddressIPv6":"fd00::0102:0304/64"},"Options":{}}`,
		map[string]any{"Interface": map[string]any{"MacAddress": "02:42:01:02:03:04"}})
	e.must("NetworkDriver.Join", joinMesh, map[string]any{
		"InterfaceName": map[string]any{"SrcName": "mpaaaaaaaaaaaa", "DstPrefix": "eth"},
		"GatewayIPv6":   "fd00::1", "DisableGatewayService": true,
	})
	want := []netip.Prefix{netip.MustParsePrefix("fd00::0102:0304/64")}
	if got := e.overlay.all()["aaaaaaaaaaaaaaaa"].Addrs; !slices.Equal(got, want) {
		t.Errorf("addresses: %v", got)
	}
	got := e.call("NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"b","Interface":{"Address":"240.64.4.3/22"},"Options":{}}`)
	if got["Err"] != "the endpoint has no address" {
		t.Errorf("an endpoint without IPv6: %v", got)
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	e := newEngine(t)
	e.must("NetworkDriver.CreateNetwork", createMesh, nil)
	e.must("NetworkDriver.CreateEndpoint", endpointMesh,
		map[string]any{"Interface": map[string]any{"MacAddress": "02:42:0a:ff:00:07"}})
	e.stop()
	if _, err := os.Stat(e.socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
	// A killed process leaves its socket.
	if err := os.WriteFile(e.socket(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e.start()
	if got := e.call("NetworkDriver.Join", joinMesh); got["Gateway"] != "10.255.0.1" {
		t.Errorf("Join after a restart: %v", got)
	}
}

func TestBadCallsAreRefused(t *testing.T) {
	e := newEngine(t)
	e.must("NetworkDriver.CreateNetwork", createUser, nil)
	for what, c := range map[string]struct{ method, body string }{
		"no VNI":            {"CreateNetwork", `{"NetworkID":"n3","Options":{"com.docker.network.generic":{}}}`},
		"null options":      {"CreateNetwork", `{"NetworkID":"n3","Options":{"com.docker.network.generic":null}}`},
		"VNI too large":     {"CreateNetwork", `{"NetworkID":"n3","Options":{"com.docker.network.generic":{"mesh.vni":"16777216"}}}`},
		"no JSON":           {"CreateNetwork", `{`},
		"bad gateway":       {"CreateNetwork", `{"Options":{"com.docker.network.generic":{"mesh.vni":"5"}},"IPv4Data":[{"Gateway":"x"}]}`},
		"unknown network":   {"CreateEndpoint", `{"NetworkID":"nX","EndpointID":"cccccccccccc","Interface":{"Address":"10.0.1.9/24"}}`},
		"no interface":      {"CreateEndpoint", `{"NetworkID":"n2","EndpointID":"cccccccccccc","Interface":null}`},
		"no address":        {"CreateEndpoint", `{"NetworkID":"n2","EndpointID":"cccccccccccc","Interface":{}}`},
		"bad address":       {"CreateEndpoint", `{"NetworkID":"n2","EndpointID":"cccccccccccc","Interface":{"Address":"10.0.1.9"}}`},
		"task is no string": {"CreateEndpoint", `{"NetworkID":"n2","EndpointID":"cccccccccccc","Interface":{"Address":"10.0.1.9/24"},"Options":{"mesh.task":7}}`},
		"unknown endpoint":  {"Join", `{"NetworkID":"n2","EndpointID":"cccccccccccc"}`},
	} {
		t.Run(what, func(t *testing.T) {
			if got := e.call("NetworkDriver."+c.method, c.body); got["Err"] == nil || got["Err"] == "" {
				t.Errorf("answer: %v", got)
			}
		})
	}
}

func TestTheOverlaysFailureReachesTheEngine(t *testing.T) {
	e := newEngine(t)
	e.must("NetworkDriver.CreateNetwork", createUser, nil)
	e.must("NetworkDriver.CreateEndpoint", endpointUser, map[string]any{"Interface": map[string]any{}})
	e.overlay.err = errors.New("no room")
	if got := e.call("NetworkDriver.Join", joinUser); got["Err"] != "no room" {
		t.Errorf("answer: %v", got)
	}
}
