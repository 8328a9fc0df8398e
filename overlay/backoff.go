package overlay

import "time"

// backoff doubles from first to most.
type backoff struct {
	first, most time.Duration
	last        time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, b.first), b.most)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }
