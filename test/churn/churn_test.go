package churn

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Parameters of a run. The same seed takes the same steps.
type parameters struct {
	time  *time.Duration
	seed  *uint64
	limit *time.Duration
	bin   *string
}

func flags() parameters {
	return parameters{
		time:  flag.Duration("churn.time", time.Minute, "how long to go on with steps"),
		seed:  flag.Uint64("churn.seed", 0, "which steps; 0: others each time"),
		limit: flag.Duration("churn.limit", 5*time.Second, "how long an answer may be wrong after a step has settled"),
		bin:   flag.String("churn.bin", "../../bin", "where the programs are"),
	}
}

var given = flags()

func TestChurn(t *testing.T) {
	if os.Getuid() != 0 || testing.Short() {
		t.Skip("SKIPPED: the churn test needs root, and is not short")
	}
	seed := *given.seed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to take the same steps again: -churn.seed=%d -churn.time=%v", seed, *given.time)
	bin, err := filepath.Abs(*given.bin)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *given.time+8*time.Minute)
	defer cancel()
	s := newScene(ctx, t, bin)
	rng := rand.New(rand.NewPCG(seed, seed))
	report := newReport()
	for end := time.Now().Add(*given.time); time.Now().Before(end) && !t.Failed(); {
		step := chooseStep(rng, s.replicas, longestCut(*given.time))
		before, err := s.truth()
		if err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		if err := step.do(s); err != nil {
			t.Fatalf("%v: %v", step, err)
		}
		settled := s.settle(step)
		o := s.judge(step, before, from, settled, *given.limit)
		t.Log(o)
		report.add(o)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	t.Log(report)
}

// chooseStep depends on the seed alone, and on what the steps before made of the number of replicas.
func chooseStep(rng *rand.Rand, replicas int, longest time.Duration) step {
	switch rng.IntN(6) {
	case 0, 1:
		n := lowest + rng.IntN(highest-lowest+1)
		if n == replicas {
			n = lowest + (n-lowest+1)%(highest-lowest+1)
		}
		return scale(n)
	case 2:
		return drain(shaken[rng.IntN(len(shaken))])
	case 3:
		return update()
	case 4:
		return kill(rng.IntN(replicas))
	}
	return cut(shaken[rng.IntN(len(shaken))], time.Second+time.Duration(rng.Int64N(int64(longest-time.Second))))
}

// longestCut leaves a short run time for other steps.
func longestCut(all time.Duration) time.Duration {
	return min(max(all/4, 2*time.Second), 30*time.Second)
}

func TestStepsFollowTheSeed(t *testing.T) {
	walk := func() (out []string) {
		rng := rand.New(rand.NewPCG(7, 7))
		for range 50 {
			out = append(out, fmt.Sprint(chooseStep(rng, 4, longestCut(time.Minute))))
		}
		return out
	}
	a, b := walk(), walk()
	kinds := map[string]bool{}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("step %d: %s and %s", i, a[i], b[i])
		}
		kinds[kindOf(a[i])] = true
	}
	if len(kinds) != 5 {
		t.Errorf("50 steps are of the kinds %v, want all 5", kinds)
	}
}
