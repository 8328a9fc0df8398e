package journal

import (
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/meshd/meshd/orchestrator/store"
)

// Scope is that of the swarm's events; an engine's own are "local".
const Scope = "swarm"

// message is a change of the store as an event of the swarm; false for objects
// that Docker tells nothing of. at is the time of the commit.
func message(e store.Event, at time.Time) (events.Message, bool) {
	m := events.Message{Action: events.Action(e.Action), Scope: Scope}
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
	if e.New != nil { // it may be told later than it was
		at = store.UpdatedAt(e.New)
	}
	m.Actor, m.Time, m.TimeNano = a, at.Unix(), at.UnixNano()
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
	change(attributes, "leader", leads(was), leads(is))
}

func leads(n *store.Node) string {
	return strconv.FormatBool(n.ManagerStatus != nil && n.ManagerStatus.Leader)
}

func reachabilityOf(n *store.Node) string {
	if n.ManagerStatus == nil {
		return ""
	}
	return string(n.ManagerStatus.Reachability)
}
