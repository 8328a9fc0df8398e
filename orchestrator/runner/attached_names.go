package runner

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// A container that was connected after it was made has a resolv.conf of the
// engine's, which leads to the engine's resolver, and from there past ours. Where
// that resolver has nothing of its own to tell, the file is ours to write. The
// engine makes it anew at each start.
func (r *Runner) nameConnected(c container.InspectResponse, standIns map[string]string) error {
	if r.cfg.ResolvConf == "" || c.State == nil || !c.State.Running || c.ResolvConfPath == "" || !unnamed(c, standIns) {
		return nil
	}
	want, err := os.ReadFile(r.cfg.ResolvConf)
	if err != nil || len(want) == 0 { // written once a manager has spoken
		return err
	}
	if have, err := os.ReadFile(c.ResolvConfPath); err != nil || bytes.Equal(have, want) {
		return err
	}
	// In place: the container has mounted this very file.
	if err := os.WriteFile(c.ResolvConfPath, want, 0o644); err != nil {
		return fmt.Errorf("resolv.conf of container %s: %w", c.Name, err)
	}
	return nil
}

// unnamed says that nobody chose the container's resolver and that no other
// network's names would be lost.
func unnamed(c container.InspectResponse, standIns map[string]string) bool {
	if c.HostConfig == nil || len(c.HostConfig.DNS)+len(c.HostConfig.DNSSearch)+len(c.HostConfig.DNSOptions) > 0 ||
		slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool { return m.Destination == "/etc/resolv.conf" }) {
		return false
	}
	for name := range c.NetworkSettings.Networks {
		if standIns[name] == "" && name != network.NetworkBridge {
			return false
		}
	}
	return true
}
