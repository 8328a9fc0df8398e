package api

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// planOf are addresses on the mesh network and one more.
func planOf(networks ...string) agent.AttachmentPlan {
	p := agent.AttachmentPlan{Done: func() {}, Resolvers: []netip.Addr{netip.MustParseAddr("10.255.0.1")}}
	p.TaskID = "task1"
	for i, name := range append([]string{"ingress"}, networks...) {
		addr := netip.AddrFrom4([4]byte{10, byte(255 - i), 0, 9})
		p.Networks = append(p.Networks, protocol.AttachedTo{ID: name + "id", Name: name, Addrs: []netip.Prefix{netip.PrefixFrom(addr, 16)}})
	}
	return p
}

// asked are the engine's requests with a body, and the bodies.
func (r *rig) asked() (out []string) {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	for _, s := range r.engine.seen {
		if strings.HasPrefix(s, "POST ") || strings.HasPrefix(s, "DELETE ") {
			out = append(out, s)
		}
	}
	for _, b := range r.engine.bodies {
		var v any
		if json.Unmarshal([]byte(b), &v) == nil {
			sorted, _ := json.Marshal(v)
			b = string(sorted)
		}
		out = append(out, b)
	}
	r.engine.seen, r.engine.bodies = nil, nil
	return out
}

func TestContainerOnSwarmsNetwork(t *testing.T) {
	const mesh = `{"Container":"newid","EndpointConfig":{"DriverOpts":{"mesh.task":"task1"},"GwPriority":-1,"IPAMConfig":{"IPv4Address":"10.255.0.9"}}}`
	for name, c := range map[string]struct {
		body string
		plan []string
		want []string
	}{
		"by mode alone": {
			body: `{"Image":"i","HostConfig":{"NetworkMode":"att","Memory":1234567890}}`, plan: []string{"att"},
			want: []string{"POST /containers/create", "POST /networks/ingress/connect",
				`{"HostConfig":{"Memory":1234567890,"Mounts":[{"ReadOnly":true,"Source":"/run/resolv.conf","Target":"/etc/resolv.conf","Type":"bind"}],"NetworkMode":"att"},"Image":"i",` +
					`"NetworkingConfig":{"EndpointsConfig":{"att":{"DriverOpts":{"mesh.task":"task1"},"IPAMConfig":{"IPv4Address":"10.254.0.9"}}}}}`, mesh},
		},
		"with settings, and a resolver of the user's": {
			body: `{"HostConfig":{"NetworkMode":"attid","Dns":["192.0.2.9"]},"NetworkingConfig":{"EndpointsConfig":{"attid":{"Aliases":["a"],"DriverOpts":null,"MacAddress":"02:42:00:00:00:01"}}}}`, plan: []string{"att"},
			want: []string{"POST /containers/create", "POST /networks/ingress/connect",
				`{"HostConfig":{"Dns":["10.255.0.1","192.0.2.9"],"NetworkMode":"att"},` +
					`"NetworkingConfig":{"EndpointsConfig":{"att":{"Aliases":["a"],"DriverOpts":{"mesh.task":"task1"},"IPAMConfig":{"IPv4Address":"10.254.0.9"},"MacAddress":"02:42:00:00:00:01"}}}}`, mesh},
		},
		"beside one of the engine's": {
			body: `{"HostConfig":{"NetworkMode":"mine"},"NetworkingConfig":{"EndpointsConfig":{"mine":{},"att":null}}}`, plan: []string{"att"},
			want: []string{"POST /containers/create", "POST /networks/ingress/connect", "POST /networks/att/connect",
				`{"HostConfig":{"NetworkMode":"mine"},"NetworkingConfig":{"EndpointsConfig":{"mine":{}}}}`, mesh,
				`{"Container":"newid","EndpointConfig":{"DriverOpts":{"mesh.task":"task1"},"IPAMConfig":{"IPv4Address":"10.254.0.9"}}}`},
		},
		"two, without a mode": {
			body: `{"NetworkingConfig":{"EndpointsConfig":{"att":{},"btt":{}}}}`, plan: []string{"att", "btt"},
			want: []string{"POST /containers/create", "POST /networks/ingress/connect", "POST /networks/btt/connect",
				`{"HostConfig":{"Mounts":[{"ReadOnly":true,"Source":"/run/resolv.conf","Target":"/etc/resolv.conf","Type":"bind"}],"NetworkMode":""},` +
					`"NetworkingConfig":{"EndpointsConfig":{"att":{"DriverOpts":{"mesh.task":"task1"},"IPAMConfig":{"IPv4Address":"10.254.0.9"}}}}}`, mesh,
				`{"Container":"newid","EndpointConfig":{"DriverOpts":{"mesh.task":"task1"},"IPAMConfig":{"IPv4Address":"10.253.0.9"}}}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.node.plan = planOf(c.plan...)
			r.node.become(swarm.LocalNodeStateActive, nil) // on workers as on managers
			r.do("POST", "/containers/create", c.body).want(201, `"Id":"newid"`)
			if diff := cmp.Diff(c.want, r.asked()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAttachmentRefused(t *testing.T) {
	r := newRig(t)
	create := func(network string) answer {
		return r.do("POST", "/containers/create", `{"Image":"i","HostConfig":{"NetworkMode":"`+network+`"}}`)
	}
	r.node.attachErr = errdefs.ErrPermissionDenied.WithMessage("not manually attachable")
	create("att").want(403, "not manually attachable")
	create("localingressid").want(403, "not manually attachable")
	r.node.attachErr = errdefs.ErrNotFound.WithMessage("network nope not found")
	create("nope").want(201, "/containers/create") // for the engine to refuse
	r.node.attachErr = errors.New("managers must not be asked")
	for _, own := range []string{"", "default", "bridge", "host", "none", "mine", "container:c1"} {
		create(own).want(201, "/containers/create")
	}
	r.do("POST", "/networks/mine/connect", `{"Container":"c"}`).want(201, "/networks/mine/connect")
	r.node.become(swarm.LocalNodeStateInactive, nil)
	create("att").want(201, "/containers/create")
}

func TestConnect(t *testing.T) {
	r := newRig(t)
	r.node.plan = planOf("att")
	r.engine.containers = map[string]string{
		"free": `{"Id":"freeid","Name":"/free","HostConfig":{"NetworkMode":"default"},"NetworkSettings":{"Networks":{"bridge":{}}}}`,
		"on":   `{"Id":"onid","Name":"/on","NetworkSettings":{"Networks":{"ingress":{"DriverOpts":{"mesh.task":"task1"}}}}}`,
		"task": `{"Id":"taskid","Config":{"Labels":{"mesh.task":"t"}}}`,
		"host": `{"Id":"hostid","HostConfig":{"NetworkMode":"host"}}`,
		"none": `{"Id":"noneid","HostConfig":{"NetworkMode":"none"}}`,
	}
	r.do("POST", "/networks/att/connect", `{"Container":"free","EndpointConfig":{"Aliases":["x"],"IPAMConfig":{"IPv4Address":"10.254.0.9"}}}`).want(200, "")
	want := []protocol.AttachRequest{{ContainerID: "freeid", Name: "free", Networks: []protocol.AttachTo{
		{Target: "att", Aliases: []string{"x"}, Addrs: []netip.Addr{netip.MustParseAddr("10.254.0.9")}},
	}}}
	if diff := cmp.Diff(want, r.node.attached, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("managers were asked (-want +got)\n%s", diff)
	}
	if got := r.asked(); !slices.Equal(got[:2], []string{"POST /networks/ingress/connect", "POST /networks/att/connect"}) {
		t.Errorf("the engine was asked %v", got)
	}
	r.do("POST", "/networks/att/connect", `{"Container":"on"}`).want(200, "")
	if got := r.asked(); got[0] != "POST /networks/att/connect" || r.node.attached[1].TaskID != "task1" {
		t.Errorf("the engine was asked %v, the managers %v", got, r.node.attached[1])
	}
	r.do("POST", "/networks/att/connect", `{"Container":"task"}`).want(403, "is a task of a service")
	r.do("POST", "/networks/att/connect", `{"Container":"host"}`).want(403, "sharing network namespace")
	r.do("POST", "/networks/att/connect", `{"Container":"none"}`).want(403, "private (none) mode")
	r.do("POST", "/networks/att/connect", `{"Container":"gone"}`).want(404, "")
	r.do("POST", "/networks/att/connect", `{`).want(400, "invalid JSON")
	if len(r.node.attached) != 2 {
		t.Errorf("managers were asked in vain: %v", r.node.attached[2:])
	}

	r.asked()
	r.do("POST", "/networks/ingressid/disconnect", `{"Container":"free"}`).want(200, "")
	r.do("POST", "/networks/mine/disconnect", `{"Container":"free"}`).want(201, "/networks/mine/disconnect")
	if got := r.asked(); got[0] != "POST /networks/ingress/disconnect" {
		t.Errorf("the engine was asked %v", got)
	}
}
