package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"
)

// labelPublish says on which addresses of the nodes a service's published ports
// answer: "mesh.publish" for all of them, "mesh.publish.8080" for one.
const labelPublish = "mesh.publish"

// Interface is a network interface of the node with its addresses; the loopback
// one need not be among them.
type Interface struct {
	Name  string
	Addrs []netip.Addr
}

func sameInterface(a, b Interface) bool { return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) }

// loopback stands for the node's own processes, whatever address of its IP version they
// call.
func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// selector names addresses: those of an interface, or those within a prefix.
type selector struct {
	device string
	prefix netip.Prefix
}

// CheckAddresses says what is wrong with a list of interfaces, addresses and
// prefixes, divided by commas.
func CheckAddresses(list string) error {
	_, err := parseSelectors(list)
	return err
}

func parseSelectors(list string) ([]selector, error) {
	var out []selector
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if addr, err := netip.ParseAddr(item); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			out = append(out, selector{prefix: netip.PrefixFrom(addr, addr.BitLen())})
		} else if prefix, err := netip.ParsePrefix(item); err == nil {
			out = append(out, selector{prefix: prefix.Masked()})
		} else if isDevice(item) {
			out = append(out, selector{device: item})
		} else {
			return nil, fmt.Errorf("%q is neither an interface nor an address nor a prefix", item)
		}
	}
	return out, nil
}

// isDevice is what the kernel takes for a device's name.
func isDevice(s string) bool {
	const longest = 15 // IFNAMSIZ
	return s != "" && s != "." && s != ".." && len(s) <= longest && !strings.ContainsAny(s, "/: \t\n")
}

// CheckPublish says what is wrong with the labels that tell on which addresses a
// service's ports answer. Ports that are not published are refused.
func CheckPublish(labels map[string]string, ports []swarm.PortConfig) error {
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		number, one := strings.CutPrefix(l, labelPublish+".")
		if !one && l != labelPublish {
			continue
		}
		if err := CheckAddresses(labels[l]); err != nil {
			return fmt.Errorf("label %s=%s: %w", l, labels[l], err)
		}
		if one && !slices.ContainsFunc(ports, func(p swarm.PortConfig) bool { return strconv.Itoa(int(p.PublishedPort)) == number }) {
			return fmt.Errorf("label %s: the service does not publish port %s by that number", l, number)
		}
	}
	return nil
}

// answersOn lists the addresses of the node that a port answers on; everywhere: on
// all of them. What makes no sense, from a manager of another version, is left
// out: rather nowhere than where it was not asked for.
func answersOn(in Input, labels map[string]string, port uint32) (addrs []netip.Addr, everywhere bool) {
	list, given := labels[labelPublish+"."+strconv.Itoa(int(port))]
	if !given {
		list, given = labels[labelPublish]
	}
	if !given {
		list = in.PublishOn
	}
	if list == "" && !given {
		return nil, true
	}
	selectors, _ := parseSelectors(list)
	for _, i := range in.Interfaces {
		for _, a := range i.Addrs {
			if slices.ContainsFunc(selectors, func(s selector) bool { return s.device == i.Name || s.prefix.IsValid() && s.prefix.Contains(a) }) {
				addrs = append(addrs, a)
			}
		}
	}
	if slices.ContainsFunc(selectors, selector.loopback) {
		addrs = append(addrs, loopback(), netip.IPv6Loopback())
	}
	return addrs, false
}

// loopback tells whether the node's own processes are meant, too.
func (s selector) loopback() bool {
	return s.device == "lo" || s.prefix.IsValid() &&
		(s.prefix.Addr().IsLoopback() || s.prefix.Contains(loopback()) || s.prefix.Contains(netip.IPv6Loopback()))
}

// nodeAddrs are those of all interfaces.
func nodeAddrs(interfaces []Interface) []netip.Addr {
	var out []netip.Addr
	for _, i := range interfaces {
		out = append(out, i.Addrs...)
	}
	return out
}
