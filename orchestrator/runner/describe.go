package runner

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/placement"
)

// Describe implements agent.Engine.
func (r *Runner) Describe(ctx context.Context) (swarm.NodeDescription, error) {
	res, err := r.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return swarm.NodeDescription{}, plain(err)
	}
	d := describe(res.Info)
	delete(d.Engine.Labels, placement.LabelAllowed) // not the engine's to say
	if r.cfg.AllowPrivileged {
		if d.Engine.Labels == nil {
			d.Engine.Labels = map[string]string{}
		}
		d.Engine.Labels[placement.LabelAllowed] = "true"
	}
	return d, nil
}

func describe(i system.Info) swarm.NodeDescription {
	d := swarm.NodeDescription{
		Hostname: i.Name,
		Platform: swarm.Platform{OS: i.OSType, Architecture: i.Architecture},
		Resources: swarm.Resources{
			NanoCPUs: int64(i.NCPU) * 1e9, MemoryBytes: i.MemTotal, GenericResources: i.GenericResources,
		},
		Engine: swarm.EngineDescription{EngineVersion: i.ServerVersion},
	}
	for _, l := range i.Labels {
		k, v, _ := strings.Cut(l, "=")
		if d.Engine.Labels == nil {
			d.Engine.Labels = map[string]string{}
		}
		d.Engine.Labels[k] = v
	}
	add := func(kind string, names []string) {
		for _, n := range names {
			d.Engine.Plugins = append(d.Engine.Plugins, swarm.PluginDescription{Type: kind, Name: n})
		}
	}
	add("Volume", i.Plugins.Volume)
	// Cluster networks are this program's own, whatever the engine has.
	add("Network", append(slices.Clone(i.Plugins.Network), "overlay"))
	add("Authorization", i.Plugins.Authorization)
	add("Log", i.Plugins.Log)
	slices.SortFunc(d.Engine.Plugins, func(a, b swarm.PluginDescription) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
	d.Engine.Plugins = slices.Compact(d.Engine.Plugins)
	return d
}
