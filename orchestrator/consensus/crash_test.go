package consensus

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// crashDir is set in the process that is to be killed.
const crashDir = "MESHD_TEST_CRASH_DIR"

// A manager that is killed at any moment, while it writes entries and snapshots, has all
// that it acknowledged when it starts again.
func TestKilledManagerKeepsWhatItAcknowledged(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 4 {
		for _, name := range killedAfter(t, dir, 1+rng.IntN(150), time.Duration(rng.IntN(20))*time.Millisecond) {
			acked[name] = true
		}
		p := reopen(t, dir)
		for name := range acked {
			if !has(p.store, name) {
				t.Errorf("round %d: %s was acknowledged and is lost", round, name)
			}
		}
		t.Logf("round %d: %d acknowledged, %d there", round, len(acked), count(p.store))
		p.down()
	}
	if len(acked) < 5 {
		t.Errorf("only %d writes in all", len(acked))
	}
}

// reopen starts the manager of a directory, the only one of its cluster, and waits until
// it has all that it ever wrote.
func reopen(t *testing.T, dir string) *peer {
	t.Helper()
	c := newCluster(t, 0)
	p := c.prepare("node1", dir)
	_, err := os.Stat(filepath.Join(p.dir, logFile))
	fresh := os.IsNotExist(err)
	c.start(p)
	c.peers = append(c.peers, p)
	if fresh {
		must(t, p.Bootstrap())
	}
	eventually(t, time.Minute, "it leads and has everything", func() bool { return p.Barrier(ctx(t)) == nil })
	return p
}

// writeUntilKilled writes as fast as it can, and says what was acknowledged.
func writeUntilKilled(t *testing.T, dir string) {
	p := reopen(t, dir)
	for i := 0; ; i++ {
		name := fmt.Sprintf("%d-%d", os.Getpid(), i)
		_, err := p.Propose(t.Context(), createConfig(name))
		must(t, err)
		fmt.Println("acknowledged", name)
		if i%20 == 19 {
			must(t, p.Snapshot())
		}
	}
}

// killedAfter runs this test as a process of its own, kills it some time after so many
// writes, and returns those that were acknowledged.
func killedAfter(t *testing.T, dir string, writes int, more time.Duration) (acked []string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	giveUp := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer giveUp.Stop()
	in := bufio.NewScanner(out)
	var rest []string
	for in.Scan() {
		name, is := strings.CutPrefix(in.Text(), "acknowledged ")
		if !is {
			rest = append(rest, in.Text())
			continue
		}
		if acked = append(acked, name); len(acked) == writes {
			time.AfterFunc(more, func() { cmd.Process.Kill() })
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err == nil || len(acked) < writes {
		t.Fatalf("the process ended by itself after %d writes: %v\n%s", len(acked), err, strings.Join(rest, "\n"))
	}
	return acked
}
