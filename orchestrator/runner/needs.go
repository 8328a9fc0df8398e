package runner

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// need is a field that engines know from a version of their API on. Older ones
// ignore it without a word.
type need struct {
	used  bool
	field string
	api   string
}

// needs are the demands of a container on the engine's version.
func needs(c *container.Config, h *container.HostConfig) []need {
	var out []need
	if p := c.Healthcheck; p != nil {
		out = append(out, need{p.StartInterval != 0, "Healthcheck.StartInterval", "1.44"})
	}
	for _, m := range h.Mounts {
		out = append(out, mountNeeds(m)...)
	}
	return out
}

func mountNeeds(m mount.Mount) []need {
	at := "mount " + m.Target + ": "
	out := []need{{m.Type == mount.TypeImage, at + "Type image", "1.48"}}
	if o := m.BindOptions; o != nil {
		out = append(out,
			need{o.CreateMountpoint, at + "BindOptions.CreateMountpoint", "1.42"},
			need{o.ReadOnlyNonRecursive, at + "BindOptions.ReadOnlyNonRecursive", "1.44"},
			need{o.ReadOnlyForceRecursive, at + "BindOptions.ReadOnlyForceRecursive", "1.44"})
	}
	if o := m.VolumeOptions; o != nil {
		out = append(out, need{o.Subpath != "", at + "VolumeOptions.Subpath", "1.45"})
	}
	if o := m.TmpfsOptions; o != nil {
		out = append(out, need{len(o.Options) > 0, at + "TmpfsOptions.Options", "1.46"})
	}
	return out
}

// checkEngine refuses what an engine of this API version would ignore.
func checkEngine(needs []need, version string) error {
	for _, n := range needs {
		if n.used && older(version, n.api) {
			return fmt.Errorf("%s needs an engine with API %s or later; this node's has %s: upgrade it, or keep the task off it with a constraint",
				n.field, n.api, version)
		}
	}
	return nil
}

func older(version, than string) bool {
	a, b := numbers(version), numbers(than)
	return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
}

func numbers(version string) (out [2]int) {
	major, minor, _ := strings.Cut(version, ".")
	out[0], _ = strconv.Atoi(major)
	out[1], _ = strconv.Atoi(minor)
	return out
}
