package ipvs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Holder is a Balancer that can tell what the kernel holds.
type Holder interface {
	Held() (State, error)
}

// Inspector is a Holder that looks beyond what a State says, at how it is held.
type Inspector interface {
	// Damage lists what is wrong, as of the last call of Held. The next Set repairs it.
	Damage() ([]Difference, error)
}

// Difference is one thing in the kernel that is not as a state asks.
type Difference struct {
	Kind, What string
	// Want and Have are for people.
	Want, Have string
}

// repairs counts what was put right after somebody else changed it.
type repairs struct {
	mu     sync.Mutex
	byKind map[string]uint64
}

// Repairs counts what Run put right in the kernel after somebody else had changed
// it, by kind, since this process began.
func (k *Keeper) Repairs() map[string]uint64 {
	k.repairs.mu.Lock()
	defer k.repairs.mu.Unlock()
	return maps.Clone(k.repairs.byKind)
}

// Differences compares the kernel with a state and changes neither. A balancer
// that cannot tell what it holds has none.
func (k *Keeper) Differences(s State) ([]Difference, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.differencesLocked(s)
}

func (k *Keeper) differencesLocked(s State) ([]Difference, error) {
	h, ok := k.balancer.(Holder)
	if !ok {
		return nil, nil
	}
	want, err := Normalize(k.ejector.apply(s))
	if err != nil {
		return nil, err
	}
	held, err := h.Held()
	if err != nil {
		return nil, err
	}
	have, err := Normalize(held)
	if err != nil {
		return nil, fmt.Errorf("what the kernel holds makes no sense: %w", err)
	}
	out := differences(have, want)
	if i, ok := k.balancer.(Inspector); ok {
		damage, err := i.Damage()
		if err != nil {
			return out, err
		}
		out = append(out, damage...)
	}
	return out, nil
}

// differences names what Diff finds between normalized states.
func differences(have, want State) []Difference {
	const nothing = "nothing"
	held := map[Key]Service{}
	for _, s := range have.Services {
		held[s.Key] = s
	}
	plan := Diff(have, want)
	var out []Difference
	for _, s := range plan.Put {
		d := Difference{"service", serviceText(s), spreadText(s), nothing}
		if old, ok := held[s.Key]; ok {
			d.Have = spreadText(old)
		}
		out = append(out, d)
	}
	for _, key := range plan.Remove {
		out = append(out, Difference{"service", key.String(), nothing, backendsText(held[key].Backends)})
	}
	for _, a := range plan.AddAddrs {
		out = append(out, Difference{"node-address", "published ports on " + a.String(), "answered", nothing})
	}
	for _, a := range plan.RemoveAddrs {
		out = append(out, Difference{"node-address", "published ports on " + a.String(), nothing, "answered"})
	}
	for _, c := range plan.PutClients {
		out = append(out, Difference{"container", "container at " + clientText(c.Addrs), "known to its sockets' hooks", "other addresses, or " + nothing})
	}
	for _, a := range plan.RemoveClients {
		out = append(out, Difference{"container", "container at " + clientText([]ClientAddr{a}), nothing, "known to sockets' hooks"})
	}
	if plan.MeshChanged {
		out = append(out, Difference{
			"mesh", "network of published ports",
			meshText(want), meshText(have),
		})
	}
	return out
}

func meshText(s State) string {
	return fmt.Sprintf("%d through %s and %s", s.MeshVNI, s.Loopback4(), s.Loopback6())
}

func clientText(addrs []ClientAddr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = fmt.Sprintf("%s on network %d", a.Addr, a.VNI)
	}
	return strings.Join(texts, ", ")
}

func serviceText(s Service) string {
	if s.Name == "" {
		return s.Key.String()
	}
	return s.Name + ": " + s.Key.String()
}

// spreadText is who gets a service's connections, and how they are spread if not as usual.
func spreadText(s Service) string {
	text := backendsText(s.Backends)
	if s.Algorithm != Random2 && s.Algorithm != "" {
		text += ", by " + string(s.Algorithm)
	}
	if s.Affinity > 0 {
		text += fmt.Sprintf(", clients stay for %v", s.Affinity)
	}
	if s.PreferLocal {
		text += ", this node's first"
	}
	if s.Ejection.After > 0 {
		text += fmt.Sprintf(", ejected after %d failures", s.Ejection.After)
	}
	if s.LocalOnly {
		text += ", this node's only"
	}
	if s.DirectReturn {
		text += ", answers return directly"
	}
	return text
}

func backendsText(backends []Backend) string {
	texts := make([]string, 0, len(backends))
	for _, b := range backends {
		text := b.Addr.String()
		if b.Port != 0 {
			text = fmt.Sprintf("%s port %d", text, b.Port)
		}
		if b.Away {
			text += " (away)"
		} else if b.Draining {
			text += " (draining)"
		}
		if b.Ejected {
			text += " (ejected)"
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return "no backend"
	}
	return strings.Join(texts, ", ")
}

// mostNamed bounds a log line.
const mostNamed = 10

// noteRepairs counts and logs the differences that are not there any more. k.mu is held.
func (k *Keeper) noteRepairs(before []Difference) {
	if len(before) == 0 {
		return
	}
	after, err := k.differencesLocked(k.want)
	if err != nil {
		return // the next round tells
	}
	var names []string
	for _, d := range before {
		if !slices.Contains(after, d) {
			names = append(names, d.What)
			k.repairs.add(d.Kind)
		}
	}
	if len(names) > 0 {
		k.config.Logger.Warn("somebody changed this node's load balancer; it is repaired",
			"repairs", len(names), "what", strings.Join(names[:min(len(names), mostNamed)], ", "))
	}
}

func (r *repairs) add(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byKind == nil {
		r.byKind = map[string]uint64{}
	}
	r.byKind[kind]++
}
