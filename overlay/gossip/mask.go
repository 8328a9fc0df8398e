package gossip

import "time"

// lost is a node that memberlist has given up.
type lost struct {
	// silent: the machine itself did not answer when last asked.
	silent bool
	// asking: an answer is awaited.
	asking bool
	// due is when to ask next.
	due time.Time
}

// mask decides which members to take out of service: those that are silent, and those
// that left. last is what was masked before.
//
// When more than half of the others seem dead at once, the likelier reason is this
// node: its cable, its firewall, its own starvation. Masking would then
// leave it without any backend, for no gain: if it is cut off they are out of reach
// either way, and if only gossip is broken they serve. So nothing more is masked, and
// the managers' word, which comes another way, decides. Nodes that managers have
// given up already, and those that shut down in order, say nothing about this node and
// do not count.
func mask(self string, members []Member, gone map[string]lost, left, last map[string]bool) map[string]bool {
	others, silent := 0, 0
	out := map[string]bool{}
	for _, m := range members {
		if m.ID == self {
			continue
		}
		dead := gone[m.ID].silent
		if dead || left[m.ID] {
			out[m.ID] = true
		}
		if m.GivenUp || m.Leaving || left[m.ID] {
			continue
		}
		others++
		if dead {
			silent++
		}
	}
	if 2*silent <= others {
		return out
	}
	for id := range out {
		if !last[id] && !left[id] {
			delete(out, id)
		}
	}
	return out
}

// wait is for how long nodes have been missing.
type wait struct {
	since time.Time
	said  bool
}

// sayAfter is how long nodes may be missing before it is said: managers give up
// those that are dead much sooner.
const sayAfter = 30 * time.Second

// tooLong is true once in a time in which there were always some missing.
func (w *wait) tooLong(missing int, now time.Time) bool {
	if missing == 0 {
		*w = wait{}
		return false
	}
	if w.since.IsZero() {
		w.since = now
	}
	if w.said || now.Sub(w.since) < sayAfter {
		return false
	}
	w.said = true
	return true
}

// missing lists the members worth a call: those that are neither met nor given up.
func missing(self string, members []Member, alive map[string]bool) []Member {
	var out []Member
	for _, m := range members {
		if m.ID != self && !m.GivenUp && !alive[m.ID] && m.Addr.IsValid() {
			out = append(out, m)
		}
	}
	return out
}
