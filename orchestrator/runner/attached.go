package runner

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// Containers that somebody else made and put on networks of the cluster. Whose
// they are says the option mesh.task of their endpoints; nothing is kept here.

// EnsureNetwork implements agent.Engine.
func (r *Runner) EnsureNetwork(ctx context.Context, n protocol.Network) error {
	return r.ensureNetwork(ctx, n)
}

// Attached implements agent.Engine.
func (r *Runner) Attached(ctx context.Context) ([]protocol.Attached, <-chan struct{}, error) {
	ids, err := r.standIns(ctx)
	if err != nil {
		return nil, r.attachments, err
	}
	list, err := r.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, r.attachments, plain(err)
	}
	var out []protocol.Attached
	for _, c := range list.Items {
		if c.Labels[labelOurs] != "" || !onAny(c, ids) {
			continue
		}
		res, err := r.api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, r.attachments, plain(err)
		}
		if a, ok := attachedOf(res.Container, ids); ok {
			out = append(out, a)
			if err := r.nameConnected(res.Container, ids); err != nil {
				r.log.Warn("a connected container does not find the swarm's names", "container", a.Name, "error", err)
			}
		}
	}
	slices.SortFunc(out, func(a, b protocol.Attached) int { return strings.Compare(a.TaskID, b.TaskID) })
	return out, r.attachments, nil
}

// standIns maps the names of the engine's networks that stand for the cluster's to those.
func (r *Runner) standIns(ctx context.Context) (map[string]string, error) {
	res, err := r.api.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("label", labelNetwork)})
	if err != nil {
		return nil, plain(err)
	}
	ids := map[string]string{}
	for _, n := range res.Items {
		if n.Driver == r.cfg.Driver {
			ids[n.Name] = n.Labels[labelNetwork]
		}
	}
	return ids, nil
}

func onAny(c container.Summary, networks map[string]string) bool {
	if c.NetworkSettings == nil {
		return false
	}
	for name := range c.NetworkSettings.Networks {
		if networks[name] != "" {
			return true
		}
	}
	return false
}

// attachedOf is a container as managers should know it; false if it is none of an
// attachment, which happens to one that was connected behind our back.
func attachedOf(c container.InspectResponse, networks map[string]string) (protocol.Attached, bool) {
	out := protocol.Attached{ContainerID: c.ID, Name: strings.TrimPrefix(c.Name, "/")}
	if c.State != nil {
		out.Running = c.State.Running
	}
	if c.NetworkSettings == nil {
		return out, false
	}
	bridged := false
	out.Beside = named(c, networks)
	for name, e := range c.NetworkSettings.Networks {
		id := networks[name]
		bridged = bridged || id == ""
		if id == "" || e == nil || e.DriverOpts[optTask] == "" {
			continue
		}
		out.TaskID = e.DriverOpts[optTask]
		out.Networks = append(out.Networks, protocol.AttachedTo{
			ID: id, Name: name, Addrs: addressesOf(e),
			Aliases: slices.DeleteFunc(slices.Clone(e.Aliases), func(a string) bool { return strings.HasPrefix(c.ID, a) }),
		})
	}
	slices.SortFunc(out.Networks, func(a, b protocol.AttachedTo) int { return strings.Compare(a.ID, b.ID) })
	if c.HostConfig != nil && !bridged { // on a bridge the engine publishes them
		out.Ports = portsOf(c.HostConfig.PortBindings)
	}
	return out, out.TaskID != ""
}

// addressesOf are the given ones: a container that does not run has no others. A
// network's subnet is the managers' to know.
func addressesOf(e *network.EndpointSettings) []netip.Prefix {
	var out []netip.Prefix
	if e.IPAMConfig == nil {
		return nil
	}
	for _, a := range []netip.Addr{e.IPAMConfig.IPv4Address, e.IPAMConfig.IPv6Address} {
		if a.IsValid() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

func portsOf(bindings network.PortMap) []swarm.PortConfig {
	var out []swarm.PortConfig
	for port, hosts := range bindings {
		for _, h := range hosts {
			number, err := strconv.ParseUint(h.HostPort, 10, 16)
			if err != nil || number == 0 {
				continue
			}
			out = append(out, swarm.PortConfig{
				Protocol: port.Proto(), TargetPort: uint32(port.Num()), PublishedPort: uint32(number), PublishMode: swarm.PortConfigPublishModeHost,
			})
		}
	}
	slices.SortFunc(out, func(a, b swarm.PortConfig) int {
		return strings.Compare(string(a.Protocol)+strconv.Itoa(int(a.PublishedPort)), string(b.Protocol)+strconv.Itoa(int(b.PublishedPort)))
	})
	return slices.CompactFunc(out, func(a, b swarm.PortConfig) bool { return a == b })
}

// Detach implements agent.Engine.
func (r *Runner) Detach(ctx context.Context, containerID, networkID string) error {
	ids, err := r.standIns(ctx)
	if err != nil {
		return err
	}
	for name, id := range ids {
		if id != networkID {
			continue
		}
		_, err := r.api.NetworkDisconnect(ctx, name, client.NetworkDisconnectOptions{Container: containerID, Force: true})
		if err != nil && !errdefs.IsNotFound(err) {
			return plain(err)
		}
	}
	return nil
}

// detachAll takes all attached containers off: the node leaves its cluster.
func (r *Runner) detachAll(ctx context.Context) error {
	containers, _, err := r.Attached(ctx)
	errs := []error{err}
	for _, c := range containers {
		for _, n := range c.Networks {
			errs = append(errs, r.Detach(ctx, c.ContainerID, n.ID))
		}
	}
	return errors.Join(errs...)
}

// followAttached watches for what may change the answer of Attached, as follow
// does for containers of tasks.
func (r *Runner) followAttached(ctx context.Context) error {
	for ctx.Err() == nil {
		stream := r.api.Events(ctx, client.EventsListOptions{
			Since: strconv.FormatInt(time.Now().Add(-time.Second).Unix(), 10),
			Filters: client.Filters{}.Add("type", string(events.ContainerEventType), string(events.NetworkEventType)).
				Add("event", string(events.ActionStart), string(events.ActionDie), string(events.ActionDestroy), string(events.ActionRename),
					string(events.ActionConnect), string(events.ActionDisconnect)),
		})
		r.attachmentsChanged()
		for open := true; open; {
			select {
			case m := <-stream.Messages:
				if m.Actor.Attributes[labelOurs] == "" {
					r.attachmentsChanged()
				}
			case <-stream.Err:
				open = false
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return ctx.Err()
}

func (r *Runner) attachmentsChanged() {
	select {
	case r.attachments <- struct{}{}:
	default:
	}
}
