package agent

import (
	"math/rand/v2"
	"time"
)

// Backoff spaces repeated tries: the delay doubles from Min to Max, less up to
// half of it by chance, so that a thousand nodes do not come back at once.
type Backoff struct {
	Min, Max time.Duration
}

func (b Backoff) withDefaults() Backoff {
	setDefault(&b.Min, 100*time.Millisecond)
	setDefault(&b.Max, 2*time.Second)
	return b
}

// delay is the wait before try number n+1; n counts from 1.
func (b Backoff) delay(n int) time.Duration {
	d := b.Min
	for i := 1; i < n && d < b.Max; i++ {
		d *= 2
	}
	d = min(d, b.Max)
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}
