package api

import (
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
)

func validateContainer(c *swarm.ContainerSpec) error {
	if c.Image == "" {
		return invalid("ContainerSpec: image reference must be provided")
	}
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		return invalid("ContainerSpec: %q is not a valid repository/tag", c.Image)
	}
	if c.StopGracePeriod != nil && *c.StopGracePeriod < 0 {
		return invalid("ContainerSpec: stop-grace-period cannot be negative")
	}
	if err := validateMounts(c.Mounts); err != nil {
		return err
	}
	if err := validateHealthcheck(c.Healthcheck); err != nil {
		return err
	}
	if err := validateMachine(c); err != nil {
		return err
	}
	return validateFiles(c)
}

func validateMounts(mounts []mount.Mount) error {
	seen := map[string]bool{}
	for _, m := range mounts {
		if err := validateMountType(m); err != nil {
			return err
		}
		switch {
		case m.Target == "":
			return invalid("invalid mount target, must not be empty")
		case !path.IsAbs(m.Target):
			return invalid("invalid mount target, must be an absolute path: %s", m.Target)
		case m.Type == mount.TypeBind && m.Source == "":
			return invalid("invalid mount source, source should not be empty for a bind mount")
		case m.Type == mount.TypeBind && !path.IsAbs(m.Source):
			return invalid("invalid bind mount source, must be an absolute path: %s", m.Source)
		case m.Type == mount.TypeTmpfs && m.Source != "":
			return invalid("invalid tmpfs source, source must be empty")
		}
		target := path.Clean(m.Target)
		if seen[target] {
			return invalid("ContainerSpec: duplicate mount point: %s", m.Target)
		}
		seen[target] = true
	}
	return nil
}

// validateMountType checks a mount's type, and that it has options of no other.
func validateMountType(m mount.Mount) error {
	switch m.Type {
	case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs, mount.TypeImage:
	case mount.TypeNamedPipe:
		return invalid("mount %s: type npipe is for Windows", m.Target)
	case mount.TypeCluster:
		return refuse(http.StatusNotImplemented, "mount %s: type cluster (CSI volumes) is not available in meshd; use a volume driver", m.Target)
	default:
		return invalid("invalid MountType: %q", m.Type)
	}
	switch m.Consistency {
	case "", mount.ConsistencyDefault, mount.ConsistencyFull, mount.ConsistencyCached, mount.ConsistencyDelegated:
	default:
		return invalid("mount %s: Consistency %q is not known", m.Target, m.Consistency)
	}
	for _, o := range []struct {
		field string
		set   bool
		of    mount.Type
	}{
		{"BindOptions", m.BindOptions != nil, mount.TypeBind}, {"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
		{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs}, {"ImageOptions", m.ImageOptions != nil, mount.TypeImage},
		{"ClusterOptions", m.ClusterOptions != nil, mount.TypeCluster},
	} {
		if o.set && m.Type != o.of {
			return invalid("mount %s: %s are for type %s, this is type %s", m.Target, o.field, o.of, m.Type)
		}
	}
	return nil
}

func validateHealthcheck(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for name, d := range map[string]time.Duration{"Interval": h.Interval, "Timeout": h.Timeout, "StartPeriod": h.StartPeriod, "StartInterval": h.StartInterval} {
		if d != 0 && d < minProbe {
			return invalid("ContainerSpec: %s in Healthcheck cannot be less than %v", name, minProbe)
		}
	}
	if h.Retries < 0 {
		return invalid("ContainerSpec: Retries in Healthcheck cannot be negative")
	}
	return nil
}

// validateFiles checks the references to secrets and configs, and that no two
// files or mounts want the same place.
func validateFiles(c *swarm.ContainerSpec) error {
	taken := map[string]string{}
	for _, m := range c.Mounts {
		taken[path.Clean(m.Target)] = " mount"
	}
	for _, ref := range c.Secrets {
		if ref == nil || ref.SecretID == "" || ref.SecretName == "" {
			return invalid("malformed secret reference")
		}
		if ref.File == nil || ref.File.Name == "" {
			return invalid("malformed secret reference, no target provided")
		}
		f := target{"secret", ref.SecretName, ref.File.Name, ref.File.UID, ref.File.GID}
		if err := f.validate("/run/secrets", taken); err != nil {
			return err
		}
	}
	for _, ref := range c.Configs {
		switch {
		case ref == nil, ref.ConfigID == "", ref.ConfigName == "":
			return invalid("malformed config reference")
		case ref.File != nil && ref.Runtime != nil:
			return invalid("invalid Config: cannot specify both File and Runtime")
		case ref.Runtime != nil:
			return invalid("config %s: Runtime is for credential specs, which only Windows has; give it a File", ref.ConfigName)
		case ref.File == nil, ref.File.Name == "":
			return invalid("malformed config reference, no target provided")
		}
		f := target{"config", ref.ConfigName, ref.File.Name, ref.File.UID, ref.File.GID}
		if err := f.validate("/", taken); err != nil {
			return err
		}
	}
	return nil
}

// target is where a secret or a config goes in the container, and whose it is there.
type target struct{ kind, name, file, uid, gid string }

func (t target) validate(dir string, taken map[string]string) error {
	if slices.Contains(strings.Split(t.file, "/"), "..") {
		return invalid("%s %s: the target %q must not contain \"..\"", t.kind, t.name, t.file)
	}
	at := t.file
	if !path.IsAbs(at) {
		at = path.Join(dir, at)
	}
	at = path.Clean(at)
	if at == "/" || at == path.Clean(dir) {
		return invalid("%s %s: the target %q is a folder", t.kind, t.name, t.file)
	}
	switch other, found := taken[at]; {
	case found && other == " mount":
		return invalid("%s %s: the target '%s' is a mount's, too", t.kind, t.name, t.file)
	case found:
		return invalid("%s references '%s' and '%s' have a conflicting target: '%s'", t.kind, other, t.name, t.file)
	}
	taken[at] = t.name
	for what, id := range map[string]string{"UID": t.uid, "GID": t.gid} {
		if _, err := strconv.ParseUint(id, 10, 31); id != "" && err != nil {
			return invalid("%s %s: invalid File.%s %q: a number is needed", t.kind, t.name, what, id)
		}
	}
	return nil
}
