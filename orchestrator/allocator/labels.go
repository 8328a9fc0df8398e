package allocator

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// The labels of a service that say which addresses it has.
const (
	// labelVIP names virtual addresses: "10.0.0.50", "front=10.0.0.50,back=10.0.1.50".
	labelVIP = "mesh.vip"
	// labelStable has each slot keep its addresses when its task is replaced.
	labelStable = "mesh.stable-ip"
)

// fixed is a virtual address that a service asks for. Without a network the
// address itself tells which: subnets do not overlap.
type fixed struct {
	network string
	addr    netip.Addr
}

// CheckLabels says what is wrong with the labels about addresses, as far as the
// service's spec alone shows it.
func CheckLabels(s *swarm.ServiceSpec) error {
	vips, err := fixedVIPs(s.Labels)
	if err != nil {
		return err
	}
	if len(vips) > 0 && s.EndpointSpec != nil && s.EndpointSpec.Mode == swarm.ResolutionModeDNSRR {
		return fmt.Errorf("label %s: a service in endpoint mode dnsrr has no virtual IP", labelVIP)
	}
	stable, err := isStable(s.Labels)
	if err != nil {
		return err
	}
	for _, u := range []*swarm.UpdateConfig{s.UpdateConfig, s.RollbackConfig} {
		if stable && u != nil && u.Order == swarm.UpdateOrderStartFirst {
			return fmt.Errorf("label %s: with update order start-first both tasks would need the address of their slot at once; use stop-first", labelStable)
		}
	}
	return nil
}

func isStable(labels map[string]string) (bool, error) {
	v, ok := labels[labelStable]
	if !ok {
		return false, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("label %s=%s: must be true or false", labelStable, v)
	}
	return on, nil
}

func fixedVIPs(labels map[string]string) ([]fixed, error) {
	value, ok := labels[labelVIP]
	if !ok {
		return nil, nil
	}
	var out []fixed
	for _, item := range strings.Split(value, ",") {
		name, text, named := strings.Cut(strings.TrimSpace(item), "=")
		if !named {
			name, text = "", name
		}
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || named && name == "" {
			return nil, fmt.Errorf("label %s=%s: %q must be an address, or network=address", labelVIP, value, item)
		}
		f := fixed{name, addr.Unmap()}
		if slices.ContainsFunc(out, func(o fixed) bool { return o.addr == f.addr }) {
			return nil, fmt.Errorf("label %s=%s: %s is there twice", labelVIP, value, f.addr)
		}
		out = append(out, f)
	}
	return out, nil
}

// assign finds the networks of the virtual addresses that a service asks for, by
// their ID, and says what is wrong with an address.
func assign(v state, labels map[string]string, networks []*store.Network) (map[string][]netip.Addr, error) {
	vips, err := fixedVIPs(labels)
	if err != nil {
		return nil, err
	}
	out := map[string][]netip.Addr{}
	for _, f := range vips {
		n, err := networkOf(v, f, networks)
		if err == nil {
			err = usable(n, f.addr)
		}
		if err != nil {
			return nil, fmt.Errorf("label %s: %w", labelVIP, err)
		}
		if slices.ContainsFunc(out[n.ID], func(a netip.Addr) bool { return a.Is4() == f.addr.Is4() }) {
			return nil, fmt.Errorf("label %s: %s is one more address of the same IP version on network %s, where a service has one", labelVIP, f.addr, n.Spec.Name)
		}
		out[n.ID] = append(out[n.ID], f.addr)
	}
	return out, nil
}

func networkOf(v state, f fixed, networks []*store.Network) (*store.Network, error) {
	if f.network == "" {
		for _, n := range networks {
			if inSubnets(n, f.addr) {
				return n, nil
			}
		}
		return nil, fmt.Errorf("%s is not an address of any network of the service (%s)", f.addr, describe(networks...))
	}
	n := v.Network(f.network)
	if n == nil {
		n = v.NetworkByName(f.network)
	}
	switch {
	case n == nil || !slices.Contains(networks, n):
		return nil, fmt.Errorf("the service is not on a network %s", f.network)
	case !inSubnets(n, f.addr):
		return nil, fmt.Errorf("%s is not an address of network %s", f.addr, describe(n))
	}
	return n, nil
}

func inSubnets(n *store.Network, a netip.Addr) bool {
	return n.IPAMOptions != nil &&
		slices.ContainsFunc(n.IPAMOptions.Configs, func(c swarm.IPAMConfig) bool { return c.Subnet.Contains(a) })
}

// describe names networks and their subnets.
func describe(networks ...*store.Network) string {
	var out []string
	for _, n := range networks {
		words := []string{n.Spec.Name}
		if n.IPAMOptions != nil {
			for _, c := range n.IPAMOptions.Configs {
				words = append(words, c.Subnet.String())
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	if len(out) == 0 {
		return "it has none"
	}
	return strings.Join(out, ", ")
}

// usable says whether a service may have an address of the network at all.
func usable(n *store.Network, a netip.Addr) error {
	for _, c := range n.IPAMOptions.Configs {
		if c.Gateway == a {
			return fmt.Errorf("%s is the gateway of network %s", a, n.Spec.Name)
		}
		if c.Subnet.Contains(a) && (a == c.Subnet.Addr() || a.Is4() && !c.Subnet.Contains(a.Next())) {
			return fmt.Errorf("%s is the first or the last address of subnet %s, which no host may have", a, c.Subnet)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.Aux)) {
		if n.Aux[name] == a {
			return fmt.Errorf("%s is auxiliary address %q of network %s", a, name, n.Spec.Name)
		}
	}
	return nil
}

// CheckVIPs says which of the virtual addresses that a service asks for cannot be
// had, and who has it. id is the service's own, empty for a new one.
func CheckVIPs(v *store.View, id string, s *swarm.ServiceSpec) error {
	if s.Labels[labelVIP] == "" {
		return nil
	}
	used, err := resolve(v, s.TaskTemplate.Networks)
	if err != nil {
		return err
	}
	wanted, err := assign(v, s.Labels, used.overlays)
	if err != nil {
		return err
	}
	for network, addrs := range wanted {
		for _, a := range addrs {
			if owner := ownerOf(v, id, claim{network, a}); owner != "" {
				return fmt.Errorf("label %s: %s of network %s is in use by %s", labelVIP, a, v.Network(network).Spec.Name, owner)
			}
		}
	}
	return nil
}

// ownerOf names who but the service has an address, or asks for it.
func ownerOf(v *store.View, id string, c claim) string {
	for _, o := range v.Services() {
		if o.ID == id {
			continue
		}
		has, _ := claimsOfService(o)
		asked, _ := fixedVIPs(o.Spec.Labels)
		if slices.Contains(has, c) || slices.ContainsFunc(asked, func(f fixed) bool { return f.addr == c.addr }) {
			return "service " + o.Spec.Name
		}
	}
	for _, t := range v.TasksOnNetwork(c.network) {
		if !tasklife.Ended(t) && slices.Contains(claimsOfTask(t), c) {
			return nameOf(v, t.ID)
		}
	}
	return ""
}

// nameOf is how an owner of addresses is called in messages.
func nameOf(v state, id string) string {
	if s := v.Service(id); s != nil {
		return "service " + s.Spec.Name
	}
	t := v.Task(id)
	if t == nil {
		return "task " + id
	}
	name := t.ServiceID
	if s := v.Service(t.ServiceID); s != nil {
		name = s.Spec.Name
	}
	if t.Slot > 0 {
		name += "." + strconv.Itoa(t.Slot)
	}
	return fmt.Sprintf("task %s (%s)", name, t.ID)
}
