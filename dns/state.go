package dns

import (
	"net/netip"
	"time"
)

// State is all that the resolver answers from. It is a plain value; its maps must
// not be modified once it is set: one that comes again is not looked at again.
type State struct {
	// Listen is where the resolver answers, over UDP and TCP, also before the
	// machine has the addresses. It may change while the resolver runs.
	Listen []netip.AddrPort
	// Zones are the networks' names, by network ID.
	Zones map[string]Zone
	// Clients says which zones an asker sees, by its source address. Askers that
	// are not listed are refused.
	Clients map[netip.Addr]Client
	// Ours are ranges of which no upstream knows whose their addresses are (RFC 6303).
	Ours []netip.Prefix
	// Upstreams answer what no zone knows, e.g. 192.0.2.53:53.
	Upstreams []netip.AddrPort
}

// Client is a container that may ask.
type Client struct {
	// Zones in the order in which names are looked up.
	Zones []string
	// Names that only this client sees: its own host name and extra hosts.
	Names map[string][]netip.Addr
	// Upstreams replaces State.Upstreams when not empty.
	Upstreams []netip.AddrPort
	// Decline has names refused that no zone knows, so that the client asks the next
	// of its resolvers, which has names of its own.
	Decline bool
}

// Zone maps names to addresses on one network.
type Zone struct {
	// Names are lower case and relative: "web", "tasks.web", "web.1.x2k...", "_http._tcp.web".
	Names map[string]Name
	// Reverse maps an address to the name that PTR queries get, without a final dot.
	Reverse map[netip.Addr]string
	// Network is the network's name: "web.<Network>" is answered as "web".
	Network string
}

// Name is what a name stands for.
type Name struct {
	Addrs []netip.Addr
	// Targets are the answers to SRV queries (RFC 2782).
	Targets []Target
	// TTL is how long answers may be kept, in whole seconds; 0: Config.TTL.
	TTL time.Duration
}

// NotKept is a TTL of no time at all.
const NotKept time.Duration = -1

// Target is where a service can be had.
type Target struct {
	// Name is one of the same zone; it is answered as "<Name>.<Network>".
	Name string
	Port uint16
}
