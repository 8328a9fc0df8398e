package dns

import (
	"net/netip"
	"sync"
)

// quota bounds what each client has under way, so that none starves the others.
type quota struct {
	limit int
	mu    sync.Mutex
	busy  map[netip.Addr]int
}

func newQuota(limit int) *quota { return &quota{limit: limit, busy: map[netip.Addr]int{}} }

// enter is false when the client has too much under way; otherwise leave must follow.
func (q *quota) enter(from netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy[from] >= q.limit {
		return false
	}
	q.busy[from]++
	return true
}

func (q *quota) leave(from netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy[from]--; q.busy[from] == 0 {
		delete(q.busy, from)
	}
}
