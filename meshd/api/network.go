package api

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// Marks that the runner leaves on the engine's networks that stand for ours.
const (
	meshLabel  = "mesh.network" // = the ID of the swarm's network
	meshDriver = "meshd"
	vniOption  = "mesh.vni"
	meshOption = "mesh.mesh" // the mesh network, which every container has its way out on
	// noIPv4Option: the engine's IPv4 addresses on the network stand for nothing.
	noIPv4Option = "mesh.no-ipv4"
	vxlanList    = "com.docker.network.driver.overlay.vxlanid_list"
)

// predefined are the engine's own networks that a service may use; their name
// serves as their ID throughout the swarm.
var predefined = map[string]bool{network.NetworkBridge: true, network.NetworkHost: true, network.NetworkNone: true}

// networkView is a network of the swarm in the form of the engine's networks.
func networkView(n *store.Network) network.Network {
	out := network.Network{
		Name: n.Spec.Name, ID: n.ID, Created: n.CreatedAt, Scope: "swarm", Driver: "overlay",
		EnableIPv4: n.IPv4Enabled(), EnableIPv6: n.Spec.IPv6Enabled, Internal: n.Spec.Internal,
		Attachable: n.Spec.Attachable, Ingress: n.Spec.Ingress,
		IPAM: network.IPAM{Driver: "default"}, Options: map[string]string{}, Labels: orEmpty(n.Spec.Labels),
	}
	if d := n.Spec.DriverConfiguration; d != nil {
		for k, v := range d.Options {
			out.Options[k] = v
		}
	}
	if n.VNI != 0 {
		out.Options[vxlanList] = strconv.FormatUint(uint64(n.VNI), 10)
	}
	ipam := n.IPAMOptions
	if ipam == nil {
		ipam = n.Spec.IPAMOptions
	}
	if ipam != nil {
		out.IPAM.Driver, out.IPAM.Options = cmp.Or(ipam.Driver.Name, "default"), ipam.Driver.Options
		for _, c := range ipam.Configs {
			config := network.IPAMConfig{Subnet: c.Subnet, IPRange: c.Range, Gateway: c.Gateway}
			for name, a := range n.Aux {
				if c.Subnet.Contains(a) {
					if config.AuxAddress == nil {
						config.AuxAddress = map[string]netip.Addr{}
					}
					config.AuxAddress[name] = a
				}
			}
			out.IPAM.Config = append(out.IPAM.Config, config)
		}
	}
	return out
}

// localView turns the engine's network that stands for one of ours into that
// one's form: all that a worker, which has no store, can say of it.
func localView(n network.Network) network.Network {
	n.ID, n.Scope, n.Driver = n.Labels[meshLabel], "swarm", "overlay"
	n.EnableIPv4 = n.Options[noIPv4Option] == ""
	n.IPAM.Config = slices.DeleteFunc(n.IPAM.Config, func(c network.IPAMConfig) bool { return !n.EnableIPv4 && c.Subnet.Addr().Is4() })
	n.Options = map[string]string{vxlanList: n.Options[vniOption]}
	labels := map[string]string{}
	for k, v := range n.Labels {
		if k != meshLabel {
			labels[k] = v
		}
	}
	n.Labels = labels
	return n
}

// hideIPv4 takes from a network without IPv4 the addresses that an engine gives
// its containers nevertheless, because it knows no networks without.
func hideIPv4(n network.Inspect) {
	for id, c := range n.Containers {
		if !n.EnableIPv4 {
			c.IPv4Address = netip.Prefix{}
			n.Containers[id] = c
		}
	}
}

// engineNetwork asks the engine for one network; a fault of status 404 if it has none.
func (e *engine) network(ctx context.Context, ref string) (n network.Inspect, err error) {
	return n, e.get(ctx, "/networks/"+pathEscape(ref), &n)
}

// swarmNetwork looks a network up in the store. It returns nil on nodes that are
// no managers and for networks that are not ours.
func (s *Server) swarmNetwork(ctx context.Context, ref string) (*store.Network, error) {
	c, ok := s.node.Manager()
	if !ok {
		return nil, nil
	}
	if err := barrier(ctx, c); err != nil {
		return nil, err
	}
	var found *store.Network
	err := look(c.Store(), func(v *store.View) (err error) {
		found, err = findNetwork(v, ref)
		return err
	})
	if err != nil && faultOf(err).status == http.StatusNotFound {
		return nil, nil
	}
	return found, err
}

// statusVersion is the version since which a network's inspection counts its addresses.
var statusVersion = apiVersion{1, 52}

func (s *Server) networkInspect(w http.ResponseWriter, r *http.Request) error {
	ref, scope := r.PathValue("id"), r.URL.Query().Get("scope")
	verbose, err := flag(r, "verbose")
	if err != nil {
		return err
	}
	if scope != "" && scope != "swarm" {
		return s.engine.forward(w, r)
	}
	if scope == "swarm" && predefined[ref] {
		reply(w, http.StatusOK, predefinedView(ref))
		return nil
	}
	n, storeErr := s.swarmNetwork(r.Context(), ref)
	if storeErr != nil && faultOf(storeErr).status == http.StatusBadRequest {
		return storeErr // ambiguous
	}
	local, err := s.engine.network(r.Context(), cmp.Or(nameOf(n), ref))
	if n == nil && err != nil { // our ID of it, where no store tells its name
		if id := s.engine.standIn(r.Context(), ref); id != "" {
			local, err = s.engine.network(r.Context(), id)
		}
	}
	ours := err == nil && local.Labels[meshLabel] != ""
	if n == nil && ours { // the engine's own ID of it
		n, storeErr = s.swarmNetwork(r.Context(), local.Labels[meshLabel])
	}
	switch {
	case n != nil:
		out := network.Inspect{Network: networkView(n), Containers: map[string]network.EndpointResource{}}
		if ours && local.Labels[meshLabel] == n.ID {
			out.Containers = local.Containers
		}
		if c, ok := s.node.Manager(); ok {
			c.Store().View(func(v *store.View) {
				out.Peers = peersOn(v, n)
				if asked, versioned := requestVersion(r.Context()); !versioned || !asked.less(statusVersion) {
					out.Status = usage(v, n)
				}
				if verbose {
					out.Services = servicesOn(v, n)
				}
			})
		}
		hideIPv4(out)
		reply(w, http.StatusOK, out)
	case ours:
		local.Network = localView(local.Network)
		hideIPv4(local)
		reply(w, http.StatusOK, local)
	case err == nil && scope == "":
		return s.engine.forward(w, r) // in the engine's own words
	case storeErr != nil:
		return storeErr
	case scope == "swarm":
		return notFound("network", ref)
	default:
		return err
	}
	return nil
}

func nameOf(n *store.Network) string {
	if n == nil {
		return ""
	}
	return n.Spec.Name
}

func predefinedView(name string) network.Inspect {
	driver := name
	if name == network.NetworkNone {
		driver = "null"
	}
	return network.Inspect{
		Network: network.Network{
			Name: name, ID: name, Scope: "swarm", Driver: driver, EnableIPv4: true,
			IPAM: network.IPAM{Driver: "default"}, Options: map[string]string{}, Labels: map[string]string{},
		},
		Containers: map[string]network.EndpointResource{},
	}
}

// networkList shows the swarm's networks first, then the engine's own.
func (s *Server) networkList(w http.ResponseWriter, r *http.Request) error {
	f, err := decodeFilters(r.URL.Query().Get("filters"))
	if err != nil {
		return err
	}
	out := []any{}
	if err := s.eachSwarmNetwork(r.Context(), func(n network.Network, used bool) {
		if matchNetwork(f, n, used) {
			out = append(out, n)
		}
	}); err != nil {
		return err
	}
	var local []object
	query := ""
	if q := r.URL.Query().Get("filters"); q != "" {
		query = "?filters=" + queryEscape(q)
	}
	err = s.engine.get(r.Context(), "/networks"+query, &local)
	if _, manager := s.node.Manager(); err != nil && (!manager || faultOf(err).status != http.StatusServiceUnavailable) {
		return err
	}
	for _, n := range local {
		labels, _ := n["Labels"].(map[string]any)
		if _, mesh := labels[meshLabel]; mesh || n["Driver"] == meshDriver {
			continue
		}
		out = append(out, n)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// eachSwarmNetwork lists the swarm's networks: on a manager all of them, on a
// worker those its engine has.
func (s *Server) eachSwarmNetwork(ctx context.Context, fn func(n network.Network, used bool)) error {
	c, ok := s.node.Manager()
	if ok {
		if err := barrier(ctx, c); err != nil {
			// Without a quorum the list may be old; the local networks still count.
			s.log.Warn("networks are listed as this manager last knew them", "error", err)
		}
		c.Store().View(func(v *store.View) {
			for _, n := range v.Networks() {
				fn(networkView(n), n.Spec.Ingress || networkInUse(v, n) != nil)
			}
		})
		return nil
	}
	if s.node.Status().State != swarm.LocalNodeStateActive {
		return nil
	}
	var local []network.Network
	if err := s.engine.get(ctx, "/networks?filters="+queryEscape(`{"label":["`+meshLabel+`"]}`), &local); err != nil {
		return err
	}
	for _, n := range local {
		fn(localView(n), true)
	}
	return nil
}

// matchNetwork applies the filters of a network list as the engine does:
// names and IDs match in part.
func matchNetwork(f filters, n network.Network, used bool) bool {
	partly := func(key, value string) bool {
		for _, want := range f[key] {
			if strings.Contains(value, want) {
				return true
			}
		}
		return len(f[key]) == 0
	}
	for _, want := range f["dangling"] {
		if on, err := strconv.ParseBool(want); err == nil && on == used {
			return false
		}
	}
	return partly("name", n.Name) && partly("id", n.ID) && f.exact("driver", n.Driver) && f.exact("scope", n.Scope) &&
		f.exact("type", "custom") && f.labels("label", n.Labels)
}
