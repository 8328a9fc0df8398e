package dns

import (
	"net/netip"
	"strconv"

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
