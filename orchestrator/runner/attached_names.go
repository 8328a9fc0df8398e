package runner

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// engineResolver is where the engine answers inside of containers that are on
// networks of its own, other than its default bridge.
const engineResolver = "127.0.0.11"

// Containers of no task have our resolver first and, beside networks of the
// engine's own, the engine's second: it knows their neighbours there, and ours
// declines what it does not know (dns.Client.Decline). Those that were made on our
// networks alone mount the tasks' file, see package api; for others the engine makes
// a file at each start, and again with each network, and here it is made ours.
func (r *Runner) nameConnected(c container.InspectResponse, standIns map[string]string) error {
	if r.cfg.ResolvConf == "" || c.State == nil || !c.State.Running || c.ResolvConfPath == "" || resolverChosen(c) {
		return nil
	}
	ours, err := os.ReadFile(r.cfg.ResolvConf)
	if err != nil || len(ours) == 0 { // written once a manager has spoken
		return err
	}
	want := []byte(resolvConfBeside(string(ours), named(c, standIns)))
	if have, err := os.ReadFile(c.ResolvConfPath); err != nil || bytes.Equal(have, want) {
		return err
	}
	// In place: the container has mounted this very file.
	if err := os.WriteFile(c.ResolvConfPath, want, 0o644); err != nil {
		return fmt.Errorf("resolv.conf of container %s: %w", c.Name, err)
	}
	return nil
}

// resolvConfBeside adds the engine's resolver behind ours.
func resolvConfBeside(ours string, engine bool) string {
	if !engine {
		return ours
	}
	var out strings.Builder
	for line := range strings.Lines(ours) {
		out.WriteString(line)
		if strings.HasPrefix(line, "nameserver ") {
			out.WriteString("nameserver " + engineResolver + "\n")
		}
	}
	return out.String()
}

// resolverChosen says that somebody chose the container's resolver.
func resolverChosen(c container.InspectResponse) bool {
	return c.HostConfig == nil || len(c.HostConfig.DNS)+len(c.HostConfig.DNSSearch)+len(c.HostConfig.DNSOptions) > 0 ||
		slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool { return m.Destination == "/etc/resolv.conf" })
}

// named says that the engine's resolver knows names of other networks.
func named(c container.InspectResponse, standIns map[string]string) bool {
	for name := range c.NetworkSettings.Networks {
		if standIns[name] == "" && name != network.NetworkBridge {
			return true
		}
	}
	return false
}
