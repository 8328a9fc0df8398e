package api

import (
	"path"
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
	if err := validateSecretRefs(c.Secrets); err != nil {
		return err
	}
	return validateConfigRefs(c.Configs)
}

func validateMounts(mounts []mount.Mount) error {
	seen := map[string]bool{}
	for _, m := range mounts {
		switch m.Type {
		case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs, mount.TypeNamedPipe, mount.TypeCluster, mount.TypeImage:
		default:
			return invalid("invalid MountType: %q", m.Type)
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

func validateSecretRefs(refs []*swarm.SecretReference) error {
	targets := map[string]string{}
	for _, ref := range refs {
		if ref == nil || ref.SecretID == "" || ref.SecretName == "" {
			return invalid("malformed secret reference")
		}
		if ref.File == nil || ref.File.Name == "" {
			return invalid("malformed secret reference, no target provided")
		}
		if other, taken := targets[ref.File.Name]; taken {
			return invalid("secret references '%s' and '%s' have a conflicting target: '%s'", other, ref.SecretName, ref.File.Name)
		}
		targets[ref.File.Name] = ref.SecretName
	}
	return nil
}

func validateConfigRefs(refs []*swarm.ConfigReference) error {
	targets := map[string]string{}
	for _, ref := range refs {
		switch {
		case ref == nil, ref.ConfigID == "", ref.ConfigName == "":
			return invalid("malformed config reference")
		case ref.File != nil && ref.Runtime != nil:
			return invalid("invalid Config: cannot specify both File and Runtime")
		case ref.File == nil && ref.Runtime == nil, ref.File != nil && ref.File.Name == "":
			return invalid("malformed config reference, no target provided")
		case ref.Runtime != nil:
			continue
		}
		if other, taken := targets[ref.File.Name]; taken {
			return invalid("config references '%s' and '%s' have a conflicting target: '%s'", other, ref.ConfigName, ref.File.Name)
		}
		targets[ref.File.Name] = ref.ConfigName
	}
	return nil
}
