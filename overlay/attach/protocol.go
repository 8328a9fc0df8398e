package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/meshd/meshd/overlay"
)

// The options by which a network of the engine's says which of the cluster's it
// is, and an endpoint whose it is.
const (
	OptionNetwork = "mesh.network"
	OptionVNI     = "mesh.vni"
	OptionMesh    = "mesh.mesh"
	OptionTask    = "mesh.task"
	// OptionNoIPv4 says that the engine's IPv4 addresses stand for nothing.
	OptionNoIPv4 = "mesh.no-ipv4"
)

// genericOptions is where the engine puts the options of "network create -o".
const genericOptions = "com.docker.network.generic"

// contentType of all answers.
const contentType = "application/vnd.docker.plugins.v1.1+json"

// The bodies of the calls, as far as we read and write them.
type (
	createNetworkRequest struct {
		NetworkID string
		Options   map[string]json.RawMessage
		IPv4Data  []ipData
		IPv6Data  []ipData
	}
	ipData struct {
		Pool    string
		Gateway string
	}
	endpointRequest struct {
		NetworkID  string
		EndpointID string
		Interface  *endpointInterface
		Options    map[string]json.RawMessage
	}
	endpointInterface struct {
		Address     string `json:",omitempty"`
		AddressIPv6 string `json:",omitempty"`
		MacAddress  string `json:",omitempty"`
	}
	createEndpointResponse struct {
		// Interface holds only what the engine did not say itself.
		Interface endpointInterface
	}
	joinResponse struct {
		InterfaceName         interfaceName
		Gateway               string        `json:",omitempty"`
		GatewayIPv6           string        `json:",omitempty"`
		StaticRoutes          []staticRoute `json:",omitempty"`
		DisableGatewayService bool
	}
	// staticRoute is one through the container's own interface.
	staticRoute struct {
		Destination string
		RouteType   int
	}
	interfaceName struct {
		SrcName   string
		DstPrefix string
	}
)

// network is what a network of the engine's is in the cluster.
type network struct {
	NetworkID string
	VNI       uint32
	Mesh      bool
	NoIPv4    bool `json:",omitempty"`
	Gateways  []netip.Addr
	// Subnets are all of the network's; a container has an address of one per family.
	Subnets []netip.Prefix `json:",omitempty"`
}

// routeOnLink is the engine's number for a route without a next hop.
const routeOnLink = 1

// routes lead to the network's other subnets: the engine sets one only for the
// subnet of the container's address.
func (n network) routes(addrs []netip.Prefix) []staticRoute {
	var out []staticRoute
	for _, s := range n.Subnets {
		own, family := false, false
		for _, a := range addrs {
			own = own || s.Contains(a.Addr())
			family = family || s.Addr().Is4() == a.Addr().Is4()
		}
		if family && !own {
			out = append(out, staticRoute{Destination: s.String(), RouteType: routeOnLink})
		}
	}
	return out
}

var (
	errUnknownNetwork  = errors.New("the network is not known to meshd: make it through meshd")
	errUnknownEndpoint = errors.New("the endpoint is not known to meshd")
)

func (r createNetworkRequest) network() (network, error) {
	options := map[string]string{}
	if raw, ok := r.Options[genericOptions]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &options); err != nil {
			return network{}, fmt.Errorf("options of the network: %w", err)
		}
	}
	vni, err := strconv.ParseUint(options[OptionVNI], 10, 24)
	if err != nil || vni == 0 {
		return network{}, fmt.Errorf("option %s is %q; meshd makes the engine's networks itself, make yours with docker network create --driver overlay",
			OptionVNI, options[OptionVNI])
	}
	n := network{
		NetworkID: options[OptionNetwork], VNI: uint32(vni),
		Mesh: options[OptionMesh] == "true", NoIPv4: options[OptionNoIPv4] == "true",
	}
	if n.NoIPv4 {
		r.IPv4Data = nil
	}
	for _, d := range append(r.IPv4Data, r.IPv6Data...) {
		if d.Pool != "" {
			pool, err := netip.ParsePrefix(d.Pool)
			if err != nil {
				return network{}, fmt.Errorf("pool: %w", err)
			}
			n.Subnets = append(n.Subnets, pool.Masked())
		}
		if d.Gateway == "" {
			continue
		}
		gateway, err := netip.ParsePrefix(d.Gateway)
		if err != nil {
			return network{}, fmt.Errorf("gateway: %w", err)
		}
		n.Gateways = append(n.Gateways, gateway.Addr())
	}
	return n, nil
}

// attachment is what CreateEndpoint asks for.
func (r endpointRequest) attachment(n network) (overlay.Attachment, error) {
	a := overlay.Attachment{ID: r.EndpointID, NetworkID: n.NetworkID, VNI: n.VNI, Mesh: n.Mesh}
	if r.Interface == nil {
		r.Interface = &endpointInterface{}
	}
	for _, s := range []string{r.Interface.Address, r.Interface.AddressIPv6} {
		if s == "" || n.NoIPv4 && s == r.Interface.Address {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return a, fmt.Errorf("address of the endpoint: %w", err)
		}
		a.Addrs = append(a.Addrs, p)
	}
	if len(a.Addrs) == 0 {
		return a, errors.New("the endpoint has no address")
	}
	a.MAC = r.Interface.MacAddress
	if a.MAC == "" {
		a.MAC = overlay.MACFor(a.Addrs[0].Addr())
	}
	if raw, ok := r.Options[OptionTask]; ok {
		if err := json.Unmarshal(raw, &a.TaskID); err != nil {
			return a, fmt.Errorf("option %s: %w", OptionTask, err)
		}
	}
	return a, nil
}
