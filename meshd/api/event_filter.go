package api

import (
	"cmp"

	"github.com/moby/moby/api/types/events"

	"github.com/meshd/meshd/orchestrator/journal"
)

// subjects are the filters that name an object of one type.
var subjects = []events.Type{
	events.ServiceEventType, events.NodeEventType, events.NetworkEventType, events.SecretEventType, events.ConfigEventType,
	events.ContainerEventType, events.ImageEventType, events.VolumeEventType, events.PluginEventType, events.DaemonEventType,
}

// matchEvent applies the filters of /events to one of the swarm's, as the engine does
// to its own: what is asked of different keys must all hold, and names and IDs may be
// given in part, from their beginning.
func matchEvent(f filters, m events.Message) bool {
	if !f.exact("type", string(m.Type)) || !f.exact("event", string(m.Action)) || !f.exact("scope", cmp.Or(m.Scope, journal.Scope)) ||
		!f.labels("label", m.Actor.Attributes) {
		return false
	}
	for _, kind := range subjects {
		if len(f[string(kind)]) > 0 && (kind != m.Type || !f.prefix(string(kind), m.Actor.ID, m.Actor.Attributes["name"])) {
			return false
		}
	}
	return true
}
