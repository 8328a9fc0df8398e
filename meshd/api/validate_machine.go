package api

import (
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placement"
)

// Ranges that the kernel has.
const (
	maxOomScoreAdj = 1000
	maxSwappiness  = 100
)

// validateMachine checks what a container asks of the kernel. What the engine
// would drop without a word is refused here, as is what only Windows has.
func validateMachine(c *swarm.ContainerSpec) error {
	if !c.Isolation.IsDefault() {
		return invalid("ContainerSpec: Isolation %q is for Windows; only %q is known", c.Isolation, container.IsolationDefault)
	}
	if c.OomScoreAdj < -maxOomScoreAdj || c.OomScoreAdj > maxOomScoreAdj {
		return invalid("ContainerSpec: OomScoreAdj %d is not between -%d and %d", c.OomScoreAdj, maxOomScoreAdj, maxOomScoreAdj)
	}
	for _, line := range c.Hosts {
		f := strings.Fields(line)
		if len(f) < 2 {
			return invalid("ContainerSpec: Hosts: %q is not an address and names, as in hosts(5)", line)
		}
		if _, err := netip.ParseAddr(f[0]); err != nil && f[0] != "host-gateway" {
			return invalid("ContainerSpec: Hosts: %q does not begin with an IP address", line)
		}
	}
	for _, u := range c.Ulimits {
		if u == nil || u.Name == "" {
			return invalid("ContainerSpec: Ulimits: a limit has no name")
		}
		if u.Hard != -1 && (u.Soft > u.Hard || u.Soft == -1) {
			return invalid("ContainerSpec: Ulimits: %s: the soft limit %d is above the hard limit %d", u.Name, u.Soft, u.Hard)
		}
	}
	if _, err := placement.PowerOf(c); err != nil {
		return invalid("%v", err)
	}
	return validatePrivileges(c.Privileges)
}

func validatePrivileges(p *swarm.Privileges) error {
	if p == nil {
		return nil
	}
	if p.CredentialSpec != nil {
		return invalid("ContainerSpec: Privileges.CredentialSpec is for Windows")
	}
	if s := p.Seccomp; s != nil {
		switch s.Mode {
		case "", swarm.SeccompModeDefault, swarm.SeccompModeUnconfined:
			if len(s.Profile) > 0 {
				return invalid("ContainerSpec: Privileges.Seccomp.Profile needs mode %q", swarm.SeccompModeCustom)
			}
		case swarm.SeccompModeCustom:
			if !json.Valid(s.Profile) {
				return invalid("ContainerSpec: Privileges.Seccomp.Profile is not JSON")
			}
		default:
			return invalid("ContainerSpec: Privileges.Seccomp.Mode %q is not known", s.Mode)
		}
	}
	if a := p.AppArmor; a != nil && a.Mode != "" && a.Mode != swarm.AppArmorModeDefault && a.Mode != swarm.AppArmorModeDisabled {
		return invalid("ContainerSpec: Privileges.AppArmor.Mode %q is not known", a.Mode)
	}
	return nil
}

// validateSwap checks the fields of memory beyond limit and reservation.
func validateSwap(r *swarm.ResourceRequirements) error {
	limited := r.Limits != nil && r.Limits.MemoryBytes > 0
	if r.SwapBytes != nil && !limited {
		return invalid("Resources.SwapBytes can only be used together with a memory limit")
	}
	if r.SwapBytes != nil && *r.SwapBytes < -1 {
		return invalid("Resources.SwapBytes %d: Must be -1 (no limit) or more", *r.SwapBytes)
	}
	if s := r.MemorySwappiness; s != nil && (*s < -1 || *s > maxSwappiness) {
		return invalid("Resources.MemorySwappiness %d is not between -1 and %d", *s, maxSwappiness)
	}
	return nil
}

// validateAttachments checks what a task asks of its networks.
func validateAttachments(networks []swarm.NetworkAttachmentConfig) error {
	for _, n := range networks {
		for option := range n.DriverOpts {
			return invalid("Networks: %s: DriverOpts: %q is not known; meshd's networks have no options of single endpoints", n.Target, option)
		}
	}
	return nil
}
