package runner

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// plan is all that making a task's container takes.
type plan struct {
	Create client.ContainerCreateOptions
	// Connect are the networks to add before the start, by engine network name.
	// The first network is in Create: API 1.41 takes no more there.
	Connect []connection
}

type connection struct {
	Network  string
	Settings *network.EndpointSettings
}

// makePlan maps a task to a container; resolvConf is its /etc/resolv.conf on
// the host, empty to leave that file to the engine.
func makePlan(t agent.Task, resolvConf string) (plan, error) {
	if t.Task.Spec.ContainerSpec == nil {
		return plan{}, errors.New("the task has no container spec")
	}
	spec, err := expandSpec(*t.Task.Spec.ContainerSpec, placeholdersOf(t))
	if err != nil {
		return plan{}, err
	}
	host, err := hostConfig(t, spec)
	if err != nil {
		return plan{}, err
	}
	p := plan{Create: client.ContainerCreateOptions{
		Name:       agent.Name(t.Task, t.ServiceName),
		Config:     config(t, spec),
		HostConfig: host,
	}}
	if err := p.network(t); err != nil {
		return plan{}, err
	}
	ownFile := slices.ContainsFunc(spec.Mounts, func(m mount.Mount) bool { return m.Target == "/etc/resolv.conf" })
	if resolvConf != "" && len(t.Attachments) > 0 && !ownFile {
		host.Mounts = append(slices.Clone(host.Mounts), mount.Mount{
			Type: mount.TypeBind, Source: resolvConf, Target: "/etc/resolv.conf", ReadOnly: true,
		})
	}
	return p, nil
}

func config(t agent.Task, s swarm.ContainerSpec) *container.Config {
	c := &container.Config{
		Image: s.Image, Labels: labels(t), Env: append(slices.Clip(s.Env), granted(t.Task.GenericResources)...), Hostname: s.Hostname,
		User: s.User, WorkingDir: s.Dir, Tty: s.TTY, OpenStdin: s.OpenStdin,
		StopSignal: s.StopSignal, Healthcheck: s.Healthcheck,
	}
	if len(s.Command) > 0 {
		c.Entrypoint = s.Command
	}
	c.Cmd = s.Args // alone: arguments of the image's entrypoint
	if s.StopGracePeriod != nil {
		seconds := int(math.Ceil(s.StopGracePeriod.Seconds()))
		c.StopTimeout = &seconds
	}
	return c
}

// granted tells the process which generic resources it was given, as Swarm does:
// DOCKER_RESOURCE_GPU=uuid1,uuid2 or a number.
func granted(resources []swarm.GenericResource) []string {
	values := map[string][]string{}
	for _, r := range resources {
		switch {
		case r.NamedResourceSpec != nil:
			k := r.NamedResourceSpec.Kind
			values[k] = append(values[k], r.NamedResourceSpec.Value)
		case r.DiscreteResourceSpec != nil:
			k := r.DiscreteResourceSpec.Kind
			values[k] = append(values[k], strconv.FormatInt(r.DiscreteResourceSpec.Value, 10))
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		out = append(out, "DOCKER_RESOURCE_"+strings.ToUpper(k)+"="+strings.Join(values[k], ","))
	}
	return out
}

func hostConfig(t agent.Task, s swarm.ContainerSpec) (*container.HostConfig, error) {
	h := &container.HostConfig{
		Mounts: s.Mounts, ReadonlyRootfs: s.ReadOnly, Isolation: s.Isolation, Init: s.Init,
		GroupAdd: s.Groups, Sysctls: s.Sysctls, CapAdd: s.CapabilityAdd, CapDrop: s.CapabilityDrop,
		OomScoreAdj: int(s.OomScoreAdj), ExtraHosts: extraHosts(s.Hosts), SecurityOpt: securityOpts(s.Privileges),
		// The orchestrator alone decides whether a task runs again.
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Resources:     resources(t.Task.Spec.Resources, s.Ulimits),
	}
	if d := t.Task.Spec.LogDriver; d != nil {
		h.LogConfig = container.LogConfig{Type: d.Name, Config: d.Options}
	}
	if d := s.DNSConfig; d != nil && len(t.Attachments) == 0 {
		h.DNS, h.DNSSearch, h.DNSOptions = d.Nameservers, d.Search, d.Options
	}
	power, err := placement.PowerOf(&s)
	if err != nil {
		return nil, err
	}
	h.Privileged = power.Privileged
	for _, d := range power.Devices {
		h.Devices = append(h.Devices, container.DeviceMapping{
			PathOnHost: d.Host, PathInContainer: d.Container, CgroupPermissions: d.Access,
		})
	}
	for _, m := range s.Mounts {
		switch m.Type {
		case mount.TypeCluster, mount.TypeNamedPipe:
			return nil, fmt.Errorf("mount %s: type %s is not supported", m.Target, m.Type)
		case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs, mount.TypeImage:
		}
	}
	return h, nil
}

// extraHosts turns lines of hosts(5) into the engine's name:address.
func extraHosts(lines []string) []string {
	var out []string
	for _, l := range lines {
		fields := strings.Fields(l)
		for i := 1; i < len(fields); i++ {
			out = append(out, fields[i]+":"+fields[0])
		}
	}
	return out
}

func securityOpts(p *swarm.Privileges) []string {
	if p == nil {
		return nil
	}
	var out []string
	if p.NoNewPrivileges {
		out = append(out, "no-new-privileges=true")
	}
	if p.Seccomp != nil {
		switch p.Seccomp.Mode {
		case swarm.SeccompModeUnconfined:
			out = append(out, "seccomp=unconfined")
		case swarm.SeccompModeCustom:
			out = append(out, "seccomp="+string(p.Seccomp.Profile))
		case swarm.SeccompModeDefault:
		}
	}
	if p.AppArmor != nil && p.AppArmor.Mode == swarm.AppArmorModeDisabled {
		out = append(out, "apparmor=unconfined")
	}
	return append(out, selinuxOpts(p.SELinuxContext)...)
}

func selinuxOpts(s *swarm.SELinuxContext) []string {
	if s == nil {
		return nil
	}
	if s.Disable {
		return []string{"label=disable"}
	}
	var out []string
	for _, kv := range [][2]string{{"user", s.User}, {"role", s.Role}, {"type", s.Type}, {"level", s.Level}} {
		if kv[1] != "" {
			out = append(out, "label="+kv[0]+":"+kv[1])
		}
	}
	return out
}

func resources(req *swarm.ResourceRequirements, ulimits []*container.Ulimit) container.Resources {
	r := container.Resources{Ulimits: ulimits}
	if req == nil {
		return r
	}
	if l := req.Limits; l != nil {
		r.Memory = l.MemoryBytes
		r.NanoCPUs = l.NanoCPUs
		if l.Pids > 0 {
			r.PidsLimit = &l.Pids
		}
	}
	// The engine refuses a soft limit above the hard one.
	if v := req.Reservations; v != nil && (r.Memory == 0 || v.MemoryBytes <= r.Memory) {
		r.MemoryReservation = v.MemoryBytes
	}
	if req.SwapBytes != nil && r.Memory > 0 {
		r.MemorySwap = *req.SwapBytes
		if *req.SwapBytes >= 0 {
			r.MemorySwap += r.Memory // the engine counts both together
		}
	}
	r.MemorySwappiness = req.MemorySwappiness
	return r
}

// network puts the container on its networks: those of the cluster that it has
// addresses on, or one of the engine's own.
func (p *plan) network(t agent.Task) error {
	if len(t.Attachments) == 0 {
		return p.engineNetwork(t)
	}
	for i, a := range t.Attachments {
		settings, err := endpoint(t, a)
		if err != nil {
			return err
		}
		if i > 0 {
			p.Connect = append(p.Connect, connection{a.Network.Name, settings})
			continue
		}
		p.Create.HostConfig.NetworkMode = container.NetworkMode(a.Network.Name)
		p.Create.NetworkingConfig = &network.NetworkingConfig{
			EndpointsConfig: map[string]*network.EndpointSettings{a.Network.Name: settings},
		}
	}
	p.expose(t.Endpoint)
	return nil
}

// expose names the ports that the service publishes as the container's own.
func (p *plan) expose(e *swarm.EndpointSpec) {
	if e == nil {
		return
	}
	for _, c := range e.Ports {
		port, ok := network.PortFrom(uint16(c.TargetPort), c.Protocol)
		if !ok {
			continue
		}
		if p.Create.Config.ExposedPorts == nil {
			p.Create.Config.ExposedPorts = network.PortSet{}
		}
		p.Create.Config.ExposedPorts[port] = struct{}{}
	}
}

func endpoint(t agent.Task, a agent.Attachment) (*network.EndpointSettings, error) {
	ipam := &network.EndpointIPAMConfig{}
	for _, addr := range a.Addrs {
		if addr.Addr().Is4() {
			ipam.IPv4Address = addr.Addr()
		} else {
			ipam.IPv6Address = addr.Addr()
		}
	}
	if len(a.Addrs) == 0 {
		return nil, fmt.Errorf("the task has no address on network %s", a.Network.Name)
	}
	return &network.EndpointSettings{
		IPAMConfig: ipam,
		Aliases:    aliases(t, a.Network),
		DriverOpts: map[string]string{optTask: t.Task.ID},
	}, nil
}

// aliases are the names that the spec gives the task on a network.
func aliases(t agent.Task, n protocol.Network) []string {
	for _, c := range t.Task.Spec.Networks {
		if c.Target == n.ID || c.Target == n.Name {
			return c.Aliases
		}
	}
	return nil
}

// engineNetwork is for tasks that ask for host, none or bridge.
func (p *plan) engineNetwork(t agent.Task) error {
	mode := ""
	for _, c := range t.Task.Spec.Networks {
		switch c.Target {
		case network.NetworkHost, network.NetworkNone, network.NetworkBridge:
			if mode != "" {
				return fmt.Errorf("networks %s and %s cannot be used together", mode, c.Target)
			}
			mode = c.Target
		default:
			return fmt.Errorf("the task has no address on network %s", c.Target)
		}
	}
	if mode == "" {
		return errors.New("the task is on no network")
	}
	p.Create.HostConfig.NetworkMode = container.NetworkMode(mode)
	if mode == network.NetworkBridge {
		p.publish(agent.HostPorts(t.Endpoint))
	}
	return nil
}

// publish maps ports of the host, which the engine does on its own bridge.
func (p *plan) publish(ports []swarm.PortConfig) {
	p.expose(&swarm.EndpointSpec{Ports: ports})
	for _, c := range ports {
		port, ok := network.PortFrom(uint16(c.TargetPort), c.Protocol)
		if !ok {
			continue
		}
		if p.Create.HostConfig.PortBindings == nil {
			p.Create.HostConfig.PortBindings = network.PortMap{}
		}
		b := network.PortBinding{HostIP: netip.IPv4Unspecified()}
		if c.PublishedPort != 0 {
			b.HostPort = fmt.Sprint(c.PublishedPort)
		}
		p.Create.HostConfig.PortBindings[port] = append(p.Create.HostConfig.PortBindings[port], b)
	}
}
