package runner

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/placeholder"
	"github.com/meshd/meshd/orchestrator/protocol"
)

func TestPlanNetworks(t *testing.T) {
	ing, ov := stubNetwork("i", "ingress", 4096, "10.255.0.0/16", true), stubNetwork("o", "ov", 4097, "10.0.1.0/24", false)
	task := meshTask("t", map[string]protocol.Network{"10.255.0.9/16": ing, "10.0.1.9/24": ov}, "10.255.0.9/16", "10.0.1.9/24")
	task.Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080, Protocol: "tcp", PublishMode: "ingress"}}}
	p, err := makePlan(task, "/run/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if p.Create.HostConfig.NetworkMode != "ingress" || len(p.Create.NetworkingConfig.EndpointsConfig) != 1 {
		t.Errorf("first network: %+v", p.Create.NetworkingConfig)
	}
	if _, ok := p.Create.Config.ExposedPorts[network.MustParsePort("80/tcp")]; !ok || p.Create.HostConfig.PortBindings != nil {
		t.Errorf("ports %v, bindings %v", p.Create.Config.ExposedPorts, p.Create.HostConfig.PortBindings)
	}
	if len(p.Connect) != 1 || p.Connect[0].Network != "ov" ||
		p.Connect[0].Settings.IPAMConfig.IPv4Address != netip.MustParseAddr("10.0.1.9") || p.Connect[0].Settings.DriverOpts[optTask] != "t" {
		t.Errorf("second network: %+v", p.Connect)
	}
	if m := p.Create.HostConfig.Mounts; len(m) != 1 || m[0].Source != "/run/resolv.conf" {
		t.Errorf("mounts %+v", m)
	}
	task.Task.Spec.ContainerSpec.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: "/x", Target: "/etc/resolv.conf"}}
	if p, err = makePlan(task, "/run/resolv.conf"); err != nil || len(p.Create.HostConfig.Mounts) != 1 || p.Create.HostConfig.Mounts[0].Source != "/x" {
		t.Errorf("the task's own resolv.conf: %+v %v", p.Create.HostConfig.Mounts, err)
	}
}

func TestNetworkOptionsOfBothVersions(t *testing.T) {
	r := &Runner{cfg: Config{Driver: "meshd"}}
	six := protocol.Subnet{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")}
	dual := stubNetwork("d", "dual", 4097, "10.0.1.0/24", false)
	dual.Subnets = append(dual.Subnets, six)
	o := r.networkOptions(dual)
	standIn(&o, dual.VNI)
	if o.EnableIPv4 != nil || o.EnableIPv6 == nil || !*o.EnableIPv6 || len(o.IPAM.Config) != 2 || o.Options[optNoIPv4] != "" {
		t.Errorf("both: %+v", o)
	}
	seen := map[netip.Prefix]uint32{}
	for _, vni := range []uint32{4097, 4098, 1 << 18, 1<<24 - 1} {
		o = r.networkOptions(protocol.Network{VNI: vni, Subnets: []protocol.Subnet{six}})
		if o.EnableIPv4 == nil || *o.EnableIPv4 || !*o.EnableIPv6 || len(o.IPAM.Config) != 1 {
			t.Errorf("IPv6 only: %+v", o)
		}
		standIn(&o, vni)
		own := o.IPAM.Config[1].Subnet
		if o.EnableIPv4 != nil || o.Options[optNoIPv4] != "true" || own != own.Masked() || seen[own] != 0 ||
			!netip.MustParsePrefix("240.0.0.0/4").Contains(own.Addr()) {
			t.Errorf("VNI %d: stand-in %+v", vni, o)
		}
		seen[own] = vni
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*agent.Task)
		want   string
	}{
		"no container": {func(t *agent.Task) { t.Task.Spec.ContainerSpec = nil }, "no container spec"},
		"no network":   {func(t *agent.Task) { t.Task.Spec.Networks = nil }, "on no network"},
		"unattached": {func(t *agent.Task) { t.Task.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: "ov"}} },
			"no address on network ov"},
		"two modes": {func(t *agent.Task) {
			t.Task.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: "host"}, {Target: "none"}}
		}, "cannot be used together"},
		"no address": {func(t *agent.Task) { t.Attachments = []agent.Attachment{{Network: protocol.Network{Name: "ov"}}} }, "no address on network ov"},
		"template":   {func(t *agent.Task) { t.Task.Spec.ContainerSpec.Env = []string{"A={{.Nope}}"} }, `template "A={{.Nope}}"`},
		"csi": {func(t *agent.Task) {
			t.Task.Spec.ContainerSpec.Mounts = []mount.Mount{{Type: mount.TypeCluster, Target: "/x"}}
		}, "type cluster"},
	} {
		task := testTask("t")
		tt.change(&task)
		if _, err := makePlan(task, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestPlanBridgePorts(t *testing.T) {
	task := testTask("t")
	task.Task.Spec.Networks[0].Target = "bridge"
	task.Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{
		{TargetPort: 80, PublishedPort: 8080, Protocol: "tcp", PublishMode: "host"}, {TargetPort: 81, Protocol: "tcp", PublishMode: "ingress"}}}
	p, err := makePlan(task, "")
	if err != nil || len(p.Create.HostConfig.PortBindings) != 1 || p.Create.HostConfig.NetworkMode != "bridge" {
		t.Fatalf("%+v %v", p.Create.HostConfig, err)
	}
}

func TestTemplates(t *testing.T) {
	task := testTask("id1")
	task.Service.Labels = map[string]string{"tier": "front"}
	p := placeholdersOf(task)
	for in, want := range map[string]string{
		"plain":                                "plain",
		"{{.Service.Name}}-{{.Task.Slot}}":     "web-1",
		"{{.Task.Name}}":                       "web.1.id1",
		"{{.Node.Hostname}}/{{.Node.ID}}":      "host7/" + testNode,
		`{{index .Service.Labels "tier"}}`:     "front",
		"{{.Service.Labels.tier}}":             "front",
		"{{.Service.ID}} {{.Task.ID | upper}}": "svc1 ID1",
	} {
		if got, err := placeholder.Expand(in, p.Values); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
	task.Task.Slot = 0
	if got := placeholdersOf(task).Task.Name; got != "web."+testNode+".id1" {
		t.Errorf("global task's name: %s", got)
	}
}

func TestExpandSpecLeavesTheOriginal(t *testing.T) {
	s := swarm.ContainerSpec{Env: []string{"A={{.Task.ID}}"}, Mounts: []mount.Mount{{Source: "v-{{.Task.ID}}",
		VolumeOptions: &mount.VolumeOptions{Labels: map[string]string{"x": "{{.Task.ID}}"},
			DriverConfig: &mount.Driver{Options: map[string]string{"o": "{{.Task.ID}}"}}}}}}
	out, err := expandSpec(s, placeholdersOf(testTask("id1")))
	if err != nil {
		t.Fatal(err)
	}
	v, was := out.Mounts[0].VolumeOptions, s.Mounts[0].VolumeOptions
	if out.Env[0] != "A=id1" || out.Mounts[0].Source != "v-id1" || v.Labels["x"] != "id1" || v.DriverConfig.Options["o"] != "id1" {
		t.Errorf("%+v %+v", out, v)
	}
	if !strings.Contains(s.Env[0]+s.Mounts[0].Source, "{{") || was.Labels["x"] == "id1" || was.DriverConfig.Options["o"] == "id1" {
		t.Error("the shared spec was modified")
	}
}

func TestResolvConf(t *testing.T) {
	const base = "nameserver 10.255.0.1\noptions ndots:0\n"
	for _, tt := range []struct {
		search, options []string
		want            string
	}{
		{nil, nil, base},
		{[]string{"a.b", "c.d"}, nil, base + "search a.b c.d\n"},
		{nil, []string{"ndots:2"}, "nameserver 10.255.0.1\noptions ndots:2\n"},
		{nil, []string{"timeout:1"}, "nameserver 10.255.0.1\noptions ndots:0 timeout:1\n"},
	} {
		if got := resolvConf(base, tt.search, tt.options); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestSecurityAndHosts(t *testing.T) {
	got := securityOpts(&swarm.Privileges{
		NoNewPrivileges: true, AppArmor: &swarm.AppArmorOpts{Mode: swarm.AppArmorModeDisabled},
		Seccomp:        &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom, Profile: []byte("{}")},
		SELinuxContext: &swarm.SELinuxContext{User: "u", Level: "l"},
	})
	want := []string{"no-new-privileges=true", "seccomp={}", "apparmor=unconfined", "label=user:u", "label=level:l"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := extraHosts([]string{"1.2.3.4 a b", "", "::1 c"}); !slices.Equal(got, []string{"a:1.2.3.4", "b:1.2.3.4", "c:::1"}) {
		t.Errorf("hosts %q", got)
	}
}

func TestResources(t *testing.T) {
	swap := int64(10)
	r := resources(&swarm.ResourceRequirements{
		Limits: &swarm.Limit{MemoryBytes: 100}, Reservations: &swarm.Resources{MemoryBytes: 200}, SwapBytes: &swap,
	}, nil)
	if r.Memory != 100 || r.MemoryReservation != 0 || r.MemorySwap != 110 || r.PidsLimit != nil {
		t.Errorf("%+v", r)
	}
}
