package api

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/meshd/meshd/orchestrator/store"
)

const scopeSwarm = "swarm"

// message is a change of the store as an event of the swarm; false for objects
// that Docker tells nothing of.
func message(e store.Event, now time.Time) (events.Message, bool) {
	m := events.Message{Action: events.Action(e.Action), Scope: scopeSwarm}
	a := events.Actor{Attributes: map[string]string{}}
	switch o := e.Object().(type) {
	case *store.Service:
		m.Type, a.Attributes["name"] = events.ServiceEventType, o.Spec.Name
		serviceChanges(a.Attributes, e)
	case *store.Node:
		m.Type, a.Attributes["name"] = events.NodeEventType, o.Hostname()
		nodeChanges(a.Attributes, e)
	case *store.Network:
		m.Type, a.Attributes["name"] = events.NetworkEventType, o.Spec.Name
	case *store.Secret:
		m.Type, a.Attributes["name"] = events.SecretEventType, o.Spec.Name
	case *store.Config:
		m.Type, a.Attributes["name"] = events.ConfigEventType, o.Spec.Name
	default:
		return m, false
	}
	a.ID = e.Object().Key()
	m.Actor, m.Time, m.TimeNano = a, now.Unix(), now.UnixNano()
	return m, true
}

// change notes what a value was and has become, if it did.
func change(attributes map[string]string, name, was, is string) {
	if was != is {
		attributes[name+".old"], attributes[name+".new"] = was, is
	}
}

func serviceChanges(attributes map[string]string, e store.Event) {
	was, ok := e.Old.(*store.Service)
	is, ok2 := e.New.(*store.Service)
	if !ok || !ok2 {
		return
	}
	change(attributes, "image", imageOf(was), imageOf(is))
	change(attributes, "replicas", replicasOf(was), replicasOf(is))
	change(attributes, "updatestate", updateStateOf(was), updateStateOf(is))
}

func imageOf(s *store.Service) string {
	if c := s.Spec.TaskTemplate.ContainerSpec; c != nil {
		return c.Image
	}
	return ""
}

func replicasOf(s *store.Service) string {
	if r := s.Spec.Mode.Replicated; r != nil && r.Replicas != nil {
		return strconv.FormatUint(*r.Replicas, 10)
	}
	return ""
}

func updateStateOf(s *store.Service) string {
	if s.UpdateStatus == nil {
		return ""
	}
	return string(s.UpdateStatus.State)
}

func nodeChanges(attributes map[string]string, e store.Event) {
	was, ok := e.Old.(*store.Node)
	is, ok2 := e.New.(*store.Node)
	if !ok || !ok2 {
		return
	}
	change(attributes, "availability", string(was.Spec.Availability), string(is.Spec.Availability))
	change(attributes, "role", string(was.Spec.Role), string(is.Spec.Role))
	change(attributes, "state", string(was.Status.State), string(is.Status.State))
	change(attributes, "reachability", reachabilityOf(was), reachabilityOf(is))
}

func reachabilityOf(n *store.Node) string {
	if n.ManagerStatus == nil {
		return ""
	}
	return string(n.ManagerStatus.Reachability)
}

// subjects are the filters that name an object of one type.
var subjects = []events.Type{
	events.ServiceEventType, events.NodeEventType, events.NetworkEventType, events.SecretEventType, events.ConfigEventType,
	events.ContainerEventType, events.ImageEventType, events.VolumeEventType, events.PluginEventType, events.DaemonEventType,
}

// matchEvent applies the filters of /events to one of the swarm's.
func matchEvent(f filters, m events.Message) bool {
	if !f.exact("type", string(m.Type)) || !f.exact("event", string(m.Action)) || !f.exact("scope", cmp.Or(m.Scope, scopeSwarm)) ||
		!f.labels("label", m.Actor.Attributes) {
		return false
	}
	// Several subjects are alternatives: a service or a network, say.
	asked, hit := false, false
	for _, kind := range subjects {
		want := f[string(kind)]
		if len(want) == 0 {
			continue
		}
		asked = true
		if kind == m.Type && (slices.Contains(want, m.Actor.ID) || slices.Contains(want, m.Actor.Attributes["name"])) {
			hit = true
		}
	}
	return !asked || hit
}
