package tunnel

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"
)

// lookPeriod is how often the nodes of open calls are looked at.
const lookPeriod = time.Second

// call is a connection to a node that the hub can find until it is closed.
type call struct {
	plain
	node string
	hub  *Hub
}

// keep enters a node's connection among the open ones.
func (h *Hub) keep(node string, conn net.Conn) net.Conn {
	c := &call{plain{conn}, node, h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[c] = struct{}{}
	return c
}

// Close implements net.Conn.
func (c *call) Close() error {
	c.hub.mu.Lock()
	delete(c.hub.open, c)
	c.hub.mu.Unlock()
	return c.Conn.Close()
}

// hangUp closes calls to nodes that are down, until ctx ends. A machine without power
// acknowledges nothing, and TCP would send to it for a quarter of an hour; a time limit on
// that (TCP_USER_TIMEOUT, tcp(7)) would also end calls whose reader pauses.
func (h *Hub) hangUp(ctx context.Context) {
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, c := range h.calls() {
			if h.cfg.Down(c.node) {
				h.cfg.Logger.Info("a call ends: its node is down", "node", c.node)
				c.Conn.SetDeadline(time.Now()) // Close would first try to say goodbye
				c.Close()
			}
		}
	}
}

func (h *Hub) calls() []*call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.open))
}
