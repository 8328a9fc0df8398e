package api

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/overlay/ipam"
)

// minCertExpiry leaves room to renew a certificate at half its life.
const minCertExpiry = time.Hour

func validateSwarmSpec(s swarm.Spec) error {
	ticks := s.Raft
	switch {
	case s.Name != "" && s.Name != "default":
		return invalid("invalid Name %q: swarm spec must be named \"default\"", s.Name)
	case s.CAConfig.NodeCertExpiry != 0 && s.CAConfig.NodeCertExpiry < minCertExpiry:
		return invalid("minimum certificate expiry time is %v", minCertExpiry)
	case s.Dispatcher.HeartbeatPeriod < 0:
		return invalid("heartbeat time period cannot be a negative duration")
	case ticks.ElectionTick < 0, ticks.HeartbeatTick < 0, ticks.ElectionTick != 0 && ticks.ElectionTick <= ticks.HeartbeatTick:
		return invalid("election tick must be greater than heartbeat tick, and neither may be negative")
	}
	if err := validateEncrypt(s.Labels); err != nil {
		return err
	}
	return admission.CheckExternalCAs(s.CAConfig.ExternalCAs)
}

func validateInit(r swarm.InitRequest) error {
	switch {
	case r.DataPathPort != 0 && (r.DataPathPort < 1024 || r.DataPathPort > 49151):
		return invalid("Error: data path port number %d is out of the range 1024 - 49151", r.DataPathPort)
	}
	if err := validatePools(r.DefaultAddrPool, r.SubnetSize); err != nil {
		return err
	}
	if err := validateAvailability(r.Availability); err != nil {
		return err
	}
	if ca := r.Spec.CAConfig; ca.SigningCACert != "" || ca.SigningCAKey != "" || len(ca.ExternalCAs) > 0 {
		return refuse(http.StatusNotImplemented, "a swarm is founded with a root of its own; give it yours afterwards: swarm ca --rotate")
	}
	return validateSwarmSpec(r.Spec)
}

// maxSubnetBits is the longest prefix of an IPv4 subnet with room for tasks.
const maxSubnetBits = 32 - leastHostBits

// validatePools checks what networks' subnets are to be cut from, and how large.
func validatePools(pools []netip.Prefix, size uint32) error {
	if size > maxSubnetBits {
		return invalid("invalid default-addr-pool-mask-length %d: a network of that size has no room for tasks; %d is the largest", size, maxSubnetBits)
	}
	for i, p := range pools {
		switch {
		case !p.IsValid():
			return invalid("invalid default-addr-pool: it is empty")
		case p != p.Masked():
			return invalid("invalid default-addr-pool %s: it should be %s", p, p.Masked())
		case p.Bits() == 0, p.Addr().IsMulticast(), p.Addr().IsLoopback(), p.Addr().IsLinkLocalUnicast():
			return invalid("invalid default-addr-pool %s: its addresses are not for networks", p)
		case p.Addr().Is4() && p.Bits() > maxSubnetBits, p.Addr().Is6() && p.Bits() > ipam.IPv6Size:
			return invalid("invalid default-addr-pool %s: it is too small for a network", p)
		case p.Addr().Is4() && size != 0 && int(size) < p.Bits():
			return invalid("invalid default-addr-pool %s: default-addr-pool-mask-length %d does not fit in the pool", p, size)
		}
		for _, o := range pools[:i] {
			if p.Overlaps(o) {
				return invalid("invalid default-addr-pool %s: it overlaps with pool %s", p, o)
			}
		}
	}
	return nil
}

func validateJoin(r swarm.JoinRequest) error {
	switch {
	case r.ListenAddr == "":
		return invalid("invalid ListenAddr: must be provided")
	case len(r.RemoteAddrs) == 0:
		return invalid("at least 1 RemoteAddr is required to join")
	case r.JoinToken == "":
		return invalid("a join token is required to join a swarm")
	}
	for _, addr := range r.RemoteAddrs {
		if addr == "" || strings.ContainsAny(addr, " \t\r\n/@?#") {
			return invalid("invalid RemoteAddr %q: it must be a host name or an address, and may have a port", addr)
		}
	}
	return validateAvailability(r.Availability)
}

func validateAvailability(a swarm.NodeAvailability) error {
	switch a {
	case "", swarm.NodeAvailabilityActive, swarm.NodeAvailabilityPause, swarm.NodeAvailabilityDrain:
		return nil
	}
	return invalid("invalid Availability: %q", a)
}

func validateRole(r swarm.NodeRole) error {
	switch r {
	case swarm.NodeRoleManager, swarm.NodeRoleWorker:
		return nil
	}
	return invalid("invalid Role: %q", r)
}
