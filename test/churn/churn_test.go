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
	seeds *int
	limit *time.Duration
	bin   *string
}

func flags() parameters {
	return parameters{
		time:  flag.Duration("churn.time", time.Minute, "how long to go on with the steps of one seed"),
		seed:  flag.Uint64("churn.seed", 0, "which steps; 0: others each time"),
		seeds: flag.Int("churn.seeds", 1, "how many seeds to try, one after the other, each with a cluster of its own"),
		limit: flag.Duration("churn.limit", time.Second, "how long an answer may be wrong after all nodes have acknowledged a change"),
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
	bin, err := filepath.Abs(*given.bin)
	if err != nil {
		t.Fatal(err)
	}
	if *given.seeds == 1 {
		churn(t, bin, seed)
		return
	}
	for i := range uint64(*given.seeds) {
		t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) { churn(t, bin, seed+i) })
	}
}

// churn shakes one cluster. Half of the seeds balance by chance alone, half as services do by default.
func churn(t *testing.T, bin string, seed uint64) {
	t.Logf("to take the same steps again: -churn.seed=%d -churn.time=%v", seed, *given.time)
	ctx, cancel := context.WithTimeout(t.Context(), *given.time+8*time.Minute)
	defer cancel()
	rng := rand.New(rand.NewPCG(seed, seed))
	s := newScene(ctx, t, bin, []string{maglev, random2}[rng.IntN(2)])
	t.Logf("connections are spread by %s", s.algorithm)
	report := newReport()
	for end := time.Now().Add(*given.time); time.Now().Before(end) && !t.Failed(); {
		step := chooseStep(rng, s.replicas, longestCut(*given.time))
		before, err := s.truth()
		if err != nil {
			t.Fatal(err)
		}
		c := change{step: step, from: time.Now()}
		if err := step.do(s); err != nil {
			t.Fatalf("%v: %v", step, err)
		}
		c.settled = s.settle(step)
		c.known = s.acknowledged(step)
		o := s.judge(c, before, *given.limit)
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
	switch rng.IntN(7) {
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
	case 5:
		return restart(shaken[rng.IntN(len(shaken))])
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
	if len(kinds) != 6 {
		t.Errorf("50 steps are of the kinds %v, want all 6", kinds)
	}
}
