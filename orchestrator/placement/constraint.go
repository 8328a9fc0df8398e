// Package placement says which nodes a task may run on, as far as that follows
// from the node and the task's template alone: constraints, platforms, and the
// values that preferences spread over. The scheduler asks it where to put a task,
// the service loop whether a task may stay where it is.
package placement

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// Constraint is one condition on a node, such as node.role==manager.
type Constraint struct {
	key   string
	equal bool
	value string
}

func (c Constraint) String() string {
	if c.equal {
		return c.key + "==" + c.value
	}
	return c.key + "!=" + c.value
}

var (
	keyPattern   = regexp.MustCompile(`(?i)^[a-z_][a-z0-9\-_.]+$`)
	valuePattern = regexp.MustCompile(`(?i)^[a-z0-9:\-_\s\.\*\(\)\?\+\[\]\\\^\$\|\/]+$`)
)

// ParseConstraints reads KEY==VALUE and KEY!=VALUE expressions as Swarm does.
func ParseConstraints(exprs []string) ([]Constraint, error) {
	out := make([]Constraint, 0, len(exprs))
	for _, e := range exprs {
		c, err := parseConstraint(e)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func parseConstraint(expr string) (Constraint, error) {
	for _, op := range []string{"==", "!="} {
		key, value, found := strings.Cut(expr, op)
		if !found {
			continue
		}
		c := Constraint{key: strings.TrimSpace(key), equal: op == "==", value: strings.TrimSpace(value)}
		if !keyPattern.MatchString(c.key) {
			return c, fmt.Errorf("key '%s' is invalid", c.key)
		}
		if !valuePattern.MatchString(c.value) {
			return c, fmt.Errorf("value '%s' is invalid", c.value)
		}
		return c, nil
	}
	return Constraint{}, fmt.Errorf("constraint expected one operator from ==, !=")
}

// Match says whether a node satisfies all constraints.
func Match(cs []Constraint, n *store.Node) bool {
	for _, c := range cs {
		if !c.match(n) {
			return false
		}
	}
	return true
}

func (c Constraint) match(n *store.Node) bool {
	switch key := strings.ToLower(c.key); key {
	case "node.ip":
		return c.matchIP(n.Status.Addr)
	case "node.platform.arch":
		return c.holds(arch(n.Description.Platform.Architecture), arch(c.value))
	default:
		value, known := Value(c.key, n)
		// A key that nobody knows is satisfied by no node, whatever the operator.
		return known && c.holds(value, c.value)
	}
}

func (c Constraint) holds(have, want string) bool {
	return strings.EqualFold(have, want) == c.equal
}

func (c Constraint) matchIP(addr string) bool {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return !c.equal
	}
	if p, err := netip.ParsePrefix(c.value); err == nil {
		return p.Contains(ip.Unmap()) == c.equal
	}
	want, err := netip.ParseAddr(c.value)
	return err == nil && (want.Unmap() == ip.Unmap()) == c.equal
}

// Value is what a node has under a key such as node.labels.zone, empty if it
// has no such label; known is false for a key that does not exist.
func Value(key string, n *store.Node) (value string, known bool) {
	switch strings.ToLower(key) {
	case "node.id":
		return n.ID, true
	case "node.hostname":
		return n.Hostname(), true
	case "node.role":
		return string(n.Spec.Role), true
	case "node.ip":
		return n.Status.Addr, true
	case "node.platform.os":
		return n.Description.Platform.OS, true
	case "node.platform.arch":
		return n.Description.Platform.Architecture, true
	}
	if label, ok := cutPrefixFold(key, "node.labels."); ok {
		return n.Spec.Labels[label], true
	}
	if label, ok := cutPrefixFold(key, "engine.labels."); ok {
		return n.Description.Engine.Labels[label], true
	}
	return "", false
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) <= len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// OnPlatform says whether a node runs one of the platforms; no platforms means any.
func OnPlatform(platforms []swarm.Platform, n *store.Node) bool {
	if len(platforms) == 0 {
		return true
	}
	have := n.Description.Platform
	for _, p := range platforms {
		if (p.OS == "" || strings.EqualFold(p.OS, have.OS)) &&
			(p.Architecture == "" || strings.EqualFold(arch(p.Architecture), arch(have.Architecture))) {
			return true
		}
	}
	return false
}

// arch gives an architecture the name that Go and images use; engines report
// the kernel's.
func arch(name string) string {
	switch strings.ToLower(name) {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return name
}

// Rules are the conditions that a task template puts on nodes.
type Rules struct {
	Constraints []Constraint
	Platforms   []swarm.Platform
	Privileged  bool // only where such tasks are allowed
}

// RulesOf reads the rules of a template. A constraint that cannot be read, which
// the API does not let in, is returned as error.
func RulesOf(template *swarm.TaskSpec) (Rules, error) {
	var rules Rules
	power, err := PowerOf(template.ContainerSpec)
	if err != nil {
		return rules, err
	}
	rules.Privileged = power.Any()
	if p := template.Placement; p != nil {
		rules.Platforms = p.Platforms
		if rules.Constraints, err = ParseConstraints(p.Constraints); err != nil {
			return rules, err
		}
	}
	return rules, nil
}

// Allow says whether the node satisfies the rules.
func (r Rules) Allow(n *store.Node) bool {
	return Match(r.Constraints, n) && OnPlatform(r.Platforms, n) && r.Permitted(n)
}

// Usable says whether tasks that a node has may stay there: it is part of the
// cluster, neither down nor shutting down, and not being drained.
func Usable(n *store.Node) bool {
	return Reached(n) && !n.Stopping && n.Spec.Availability != swarm.NodeAvailabilityDrain
}

// Draining says that the tasks of a node are to leave it, and can do so in order.
func Draining(n *store.Node) bool { return Reached(n) && !Usable(n) }

// Reached says that a node is part of the cluster and not known to be down: what it
// is told to stop, it stops, and tells so.
func Reached(n *store.Node) bool { return n != nil && n.Status.State != swarm.NodeStateDown }

// Open says whether a node takes new tasks.
func Open(n *store.Node) bool {
	return n != nil && n.Status.State == swarm.NodeStateReady && !n.Stopping &&
		(n.Spec.Availability == swarm.NodeAvailabilityActive || n.Spec.Availability == "")
}
