package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	mdns "github.com/miekg/dns"
)

// SystemUpstreams reads the name servers of a resolv.conf; none if it cannot be read.
func SystemUpstreams(path string) []netip.AddrPort {
	conf, err := mdns.ClientConfigFromFile(path)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(conf.Port, 10, 16)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for _, s := range conf.Servers {
		if addr, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(addr, uint16(port)))
		}
	}
	return out
}

// SystemSearch reads the domains that a resolv.conf completes names with; none if
// it cannot be read.
func SystemSearch(path string) []string {
	conf, err := mdns.ClientConfigFromFile(path)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(conf.Search, func(s string) bool { return strings.Trim(s, ".") == "" })
}
