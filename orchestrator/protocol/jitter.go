package protocol

import (
	"math/rand/v2"
	"time"
)

// Jittered is a period up to a quarter shorter, at random: a change that is sent to all
// nodes at once would otherwise keep together from then on what they say of their own.
func Jittered(period time.Duration) time.Duration {
	return period - rand.N(period/4+1)
}
