// Package slowness stretches time limits where everything takes longer: in a virtual machine whose processor is emulated.
package slowness

import (
	"os"
	"strconv"
	"time"
)

// Variable of the environment holds the factor, a whole number. Whoever makes such a machine sets it: test/vm does. Without it limits are
// what they are written as.
const Variable = "MESHD_TEST_SLOWNESS"

// Stretch is a time limit, or a pause between two looks, as this machine needs it.
func Stretch(usual time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv(Variable))
	if err != nil || factor < 1 {
		return usual
	}
	return usual * time.Duration(factor)
}
