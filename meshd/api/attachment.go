package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// Containers that are no tasks on networks of the swarm. The engine knows these as
// networks of its own, by name; what it is asked to do is changed on the way, so
// that a container has the addresses that the managers gave it, the mesh network
// for its way out, and our resolver (nameserver). From then on the node tells the
// managers what the engine has (agent.Attach).

const (
	// taskOption is on every endpoint of ours, with the ID of its task.
	taskOption = taskLabel
	// attachTime bounds what the engine is asked for one container: it is not cut
	// short when the client goes away, since a container half made would be nobody's.
	attachTime = 2 * time.Minute
)

// raw is a JSON object of which only some fields concern us.
type raw map[string]json.RawMessage

// field reads one field into v; one that is missing or of another kind leaves v.
func (o raw) field(name string, v any) { _ = json.Unmarshal(o[name], v) }

func (o raw) set(name string, v any) {
	if body, err := json.Marshal(v); err == nil {
		o[name] = body
	}
}

// creation is a request to create a container.
type creation struct {
	spec, host, networking raw
	mode                   string
	endpoints              map[string]raw
}

// readCreation gives false for what is left to the engine to refuse.
func readCreation(body []byte) (c creation, ok bool) {
	if json.Unmarshal(body, &c.spec) != nil || c.spec == nil {
		return c, false
	}
	c.spec.field("HostConfig", &c.host)
	c.spec.field("NetworkingConfig", &c.networking)
	c.host.field("NetworkMode", &c.mode)
	c.networking.field("EndpointsConfig", &c.endpoints)
	return c, true
}

// networks are those that the request names, without the engine's own; the one of
// the network mode comes first.
func (c creation) networks() []string {
	names := append([]string{c.mode}, slices.Sorted(maps.Keys(c.endpoints))...)
	seen := map[string]bool{}
	return slices.DeleteFunc(names, func(name string) bool {
		had := seen[name]
		seen[name] = true
		return had || name == "" || name == network.NetworkDefault || predefined[name] || strings.HasPrefix(name, "container:")
	})
}

// swarmTarget is what managers may know a network by that a client names; false
// if it is one of the engine's own. The engine is asked first, so that its
// networks need no quorum.
func (s *Server) swarmTarget(ctx context.Context, ref string) (target string, ours bool) {
	if !partOfSwarm(s.node.Status().State) {
		return "", false
	}
	local, err := s.engine.network(ctx, ref)
	switch {
	case err == nil && local.Labels[meshLabel] == "":
		return "", false
	case err == nil:
		return local.Labels[meshLabel], true
	}
	return ref, true
}

func attachTo(target string, endpoint raw) protocol.AttachTo {
	to := protocol.AttachTo{Target: target}
	var ipam struct{ IPv4Address, IPv6Address string }
	endpoint.field("Aliases", &to.Aliases)
	endpoint.field("IPAMConfig", &ipam)
	for _, text := range []string{ipam.IPv4Address, ipam.IPv6Address} {
		if a, err := netip.ParseAddr(text); err == nil {
			to.Addrs = append(to.Addrs, a)
		}
	}
	return to
}

// createAttached makes a container on networks of the swarm; false if it names none.
func (s *Server) createAttached(w http.ResponseWriter, r *http.Request, body []byte) (done bool, err error) {
	c, ok := readCreation(body)
	if !ok {
		return false, nil
	}
	c.host, c.networking = orRaw(c.host), orRaw(c.networking)
	var req protocol.AttachRequest
	var ours []string
	for _, name := range c.networks() {
		if target, ok := s.swarmTarget(r.Context(), name); ok {
			ours = append(ours, name)
			req.Networks = append(req.Networks, attachTo(target, c.endpoints[name]))
		}
	}
	if len(ours) == 0 {
		return false, nil
	}
	plan, err := s.node.Attach(r.Context(), req)
	if errdefs.IsNotFound(err) {
		return false, nil // nobody knows it, which the engine says itself
	}
	if err != nil {
		return true, err
	}
	defer plan.Done()
	c.nameserver(s.resolvConf, plan.Resolvers, len(c.networks()) > len(ours))
	later := c.rewrite(ours, plan)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), attachTime)
	defer cancel()
	status, header, answer, err := s.engine.ask(withBody(r.WithContext(ctx), c.encode()))
	if err != nil {
		return true, err
	}
	var made struct{ ID string }
	if status != http.StatusCreated || json.Unmarshal(answer, &made) != nil {
		return true, pass(w, status, header, answer)
	}
	for _, l := range later {
		if err := s.connect(ctx, made.ID, l); err != nil {
			_ = s.engine.do(ctx, http.MethodDelete, "/containers/"+made.ID+"?force=1&v=1", nil) // the first error counts
			return true, err
		}
	}
	return true, pass(w, status, header, answer)
}

// link is a container's endpoint to be: settings are those asked for, with what
// the managers gave.
type link struct {
	network  string
	settings raw
}

// links are those of a plan, the mesh network's first; asked are the client's
// settings of the others, in their order. No container has its default route on
// the mesh network that has another one, so that what the engine publishes works.
func links(plan agent.AttachmentPlan, asked ...raw) []link {
	const lastResort = -1
	out := make([]link, 0, len(plan.Networks))
	for i, to := range plan.Networks {
		l := link{to.Name, raw{}}
		if i == 0 {
			l.settings.set("GwPriority", lastResort)
		} else {
			maps.Copy(l.settings, asked[i-1])
		}
		ipam := map[string]string{}
		for _, p := range to.Addrs {
			if p.Addr().Is4() {
				ipam["IPv4Address"] = p.Addr().String()
			} else {
				ipam["IPv6Address"] = p.Addr().String()
			}
		}
		options := map[string]string{}
		l.settings.field("DriverOpts", &options)
		options = orEmpty(options) // null is an object, too
		options[taskOption] = plan.TaskID
		l.settings.set("IPAMConfig", ipam)
		l.settings.set("DriverOpts", options)
		out = append(out, l)
	}
	return out
}

// rewrite puts into the request what the managers gave. Older engines take one
// network only, so the others come later.
func (c *creation) rewrite(ours []string, plan agent.AttachmentPlan) (later []link) {
	endpoints := maps.Clone(c.endpoints)
	var asked []raw
	for _, name := range ours {
		asked = append(asked, c.endpoints[name])
		delete(endpoints, name)
	}
	all := links(plan, asked...)
	later = all[:1]
	for i, l := range all[1:] {
		if ours[i] == c.mode || i == 0 && len(endpoints) == 0 {
			if ours[i] == c.mode {
				c.mode = l.network
			}
			endpoints = map[string]raw{l.network: l.settings}
			continue
		}
		later = append(later, l)
	}
	c.host.set("NetworkMode", c.mode)
	c.networking.set("EndpointsConfig", endpoints)
	return later
}

// nameserver makes our resolver the container's: like a task's by a file or, where it
// brings settings for the engine's resolver, behind that one. Beside networks of
// the engine's own its file is changed when it runs (package runner).
func (c *creation) nameserver(file string, resolvers []netip.Addr, local bool) {
	const path = "/etc/resolv.conf"
	var mounts []raw
	var binds, dns, search, options []string
	c.host.field("Mounts", &mounts)
	c.host.field("Binds", &binds)
	c.host.field("Dns", &dns)
	c.host.field("DnsSearch", &search)
	c.host.field("DnsOptions", &options)
	own := slices.ContainsFunc(binds, func(b string) bool { return strings.Contains(b, ":"+path) })
	for _, m := range mounts {
		var target string
		m.field("Target", &target)
		own = own || target == path
	}
	switch {
	case own || len(resolvers) == 0:
	case local && len(dns)+len(search)+len(options) == 0:
	case file == "" || len(dns)+len(search)+len(options) > 0:
		c.host.set("Dns", append([]string{resolvers[0].String()}, dns...))
	default:
		m := raw{}
		m.set("Type", mount.TypeBind)
		m.set("Source", file)
		m.set("Target", path)
		m.set("ReadOnly", true)
		c.host.set("Mounts", append(mounts, m))
	}
}

func orRaw(o raw) raw {
	if o == nil {
		return raw{}
	}
	return o
}

func (c creation) encode() []byte {
	c.spec.set("HostConfig", c.host)
	c.spec.set("NetworkingConfig", c.networking)
	body, _ := json.Marshal(c.spec) // raw JSON and strings always encode
	return body
}

func withBody(r *http.Request, body []byte) *http.Request {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return r
}

// connect has the engine put a container on a network.
func (s *Server) connect(ctx context.Context, container string, l link) error {
	body, err := json.Marshal(map[string]any{"Container": container, "EndpointConfig": l.settings})
	if err != nil {
		return err
	}
	return s.engine.do(ctx, http.MethodPost, "/networks/"+pathEscape(l.network)+"/connect", body)
}

// connectable is what the engine says of a container that is to be connected.
type connectable struct {
	ID, Name   string
	Config     struct{ Labels map[string]string }
	HostConfig struct{ NetworkMode string }

	NetworkSettings struct {
		Networks map[string]struct{ DriverOpts map[string]string }
	}
}

// task is the attachment that the container has already.
func (c connectable) task() string {
	for _, e := range c.NetworkSettings.Networks {
		if id := e.DriverOpts[taskOption]; id != "" {
			return id
		}
	}
	return ""
}

// refusal says why the container cannot be on more networks, as the engine would.
func (c connectable) refusal() error {
	switch mode := c.HostConfig.NetworkMode; {
	case c.Config.Labels[taskLabel] != "":
		return refuse(http.StatusForbidden, "container %s is a task of a service; use \"docker service update --network-add\"", c.Config.Labels[taskLabel])
	case mode == network.NetworkHost, strings.HasPrefix(mode, "container:"):
		return refuse(http.StatusForbidden, "container sharing network namespace with another container or host cannot be connected to any other network")
	case mode == network.NetworkNone:
		return refuse(http.StatusForbidden, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	return nil
}

// networkConnect puts a container on a network of the swarm, or leaves it to the engine.
func (s *Server) networkConnect(w http.ResponseWriter, r *http.Request) error {
	target, ours := s.swarmTarget(r.Context(), r.PathValue("id"))
	if !ours {
		return s.engine.forward(w, r)
	}
	body, err := wholeBody(w, r)
	if err != nil {
		return err
	}
	var asked struct {
		Container      string
		EndpointConfig raw
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return invalid("invalid JSON: %v", err)
	}
	var c connectable
	if err := s.engine.get(r.Context(), "/containers/"+pathEscape(asked.Container)+"/json", &c); err != nil {
		return err
	}
	if err := c.refusal(); err != nil {
		return err
	}
	plan, err := s.node.Attach(r.Context(), protocol.AttachRequest{
		TaskID: c.task(), ContainerID: c.ID, Name: strings.TrimPrefix(c.Name, "/"),
		Networks: []protocol.AttachTo{attachTo(target, asked.EndpointConfig)},
	})
	if err != nil {
		return err
	}
	defer plan.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), attachTime)
	defer cancel()
	for i, l := range links(plan, asked.EndpointConfig) {
		if _, there := c.NetworkSettings.Networks[l.network]; there && i == 0 {
			continue
		}
		if err := s.connect(ctx, c.ID, l); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// networkDisconnect takes a container off a network. One that is on none of the
// swarm's then needs the mesh network no more.
func (s *Server) networkDisconnect(w http.ResponseWriter, r *http.Request) error {
	name, ours := s.standInName(r.Context(), r.PathValue("id"))
	if !ours {
		return s.engine.forward(w, r)
	}
	body, err := wholeBody(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), attachTime)
	defer cancel()
	if err := s.engine.do(ctx, http.MethodPost, "/networks/"+pathEscape(name)+"/disconnect", body); err != nil {
		return err
	}
	var asked struct{ Container string }
	if json.Unmarshal(body, &asked) == nil {
		s.leaveMesh(ctx, asked.Container)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// leaveMesh takes a container off the mesh network if that is the only one of ours
// that it is on. What fails here does no harm.
func (s *Server) leaveMesh(ctx context.Context, container string) {
	var c connectable
	if s.engine.get(ctx, "/containers/"+pathEscape(container)+"/json", &c) != nil || c.Config.Labels[taskLabel] != "" {
		return
	}
	var left []string
	for name, e := range c.NetworkSettings.Networks {
		if e.DriverOpts[taskOption] != "" {
			left = append(left, name)
		}
	}
	if len(left) != 1 {
		return
	}
	local, err := s.engine.network(ctx, left[0])
	if err != nil || local.Options[meshOption] == "" {
		return
	}
	body, _ := json.Marshal(map[string]any{"Container": c.ID, "Force": true}) // plain values always encode
	if err := s.engine.do(ctx, http.MethodPost, "/networks/"+pathEscape(left[0])+"/disconnect", body); err != nil {
		s.log.Warn("a container stays on the mesh network", "container", c.ID, "error", err)
	}
}

// standInName is the engine's name of the network that stands for one of ours.
func (s *Server) standInName(ctx context.Context, ref string) (string, bool) {
	if !partOfSwarm(s.node.Status().State) {
		return "", false
	}
	if local, err := s.engine.network(ctx, ref); err == nil {
		return local.Name, local.Labels[meshLabel] != ""
	}
	if n, err := s.swarmNetwork(ctx, ref); err == nil && n != nil {
		return n.Spec.Name, true
	}
	local, err := s.engine.network(ctx, s.engine.standIn(ctx, ref))
	return local.Name, err == nil && local.Labels[meshLabel] != ""
}
