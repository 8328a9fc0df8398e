package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/orchestrator/store"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// smallDisk is a file system of a few megabytes.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("meshd-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("SKIPPED: no file system can be mounted: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// fill takes all the space of a disk; the returned function gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() { must(t, os.Remove(path)) }
}

// bulky is a change that free pages of the log do not hold.
func bulky(name string) store.Batch {
	b := createConfig(name)
	b.Changes[0].Object.(*store.Config).Spec = swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name}, Data: make([]byte, 100<<10)}
	return b
}

// saysFull says that an error names the disk that is full.
func saysFull(err error, p *peer) bool {
	return err != nil && strings.Contains(err.Error(), "cannot write to "+p.dir) && strings.Contains(err.Error(), "no space left on device")
}

// A leader whose disk is full steps down, the others go on, and it takes part again when
// there is space. Nothing that was acknowledged is lost.
func TestLeaderWithFullDiskStepsDown(t *testing.T) {
	c := newCluster(t, 0)
	for range 3 {
		c.grow(smallDisk(t))
	}
	lead := c.leader(c.peers...)
	other := c.others(lead)[0]
	free := fill(t, filepath.Dir(lead.dir))
	for i := range 5 {
		long, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := other.Propose(long, bulky(fmt.Sprintf("full-%d", i)))
		must(t, err)
		cancel()
	}
	eventually(t, time.Minute, "another leads", func() bool {
		id, _ := other.Leader()
		return id != "" && id != lead.id
	})
	// What is small may fit between.
	eventually(t, time.Minute, "the manager says that its disk is full", func() bool { return saysFull(lead.Trouble(), lead) })
	free()
	eventually(t, time.Minute, "it has what was written meanwhile", func() bool { return has(lead.store, "full-4") && lead.Trouble() == nil })
	for _, p := range c.peers {
		p.down()
	}
	for _, p := range c.peers {
		c.start(p)
	}
	for _, p := range c.peers {
		eventually(t, time.Minute, p.id+" is up again", func() bool { return p.Barrier(ctx(t)) == nil })
		if n := count(p.store); n != 5 {
			t.Errorf("%s has %d configs, want 5", p.id, n)
		}
	}
}

// The only manager says why it cannot, and goes on by itself when it can.
func TestOnlyManagerWithFullDiskSaysSo(t *testing.T) {
	p := newCluster(t, 0).grow(smallDisk(t))
	_, err := p.Propose(ctx(t), createConfig("before"))
	must(t, err)
	free := fill(t, filepath.Dir(p.dir))
	eventually(t, time.Minute, "a write fails and says why", func() bool {
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := p.Propose(short, bulky(store.NewID()))
		return saysFull(err, p)
	})
	free()
	long, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = p.Propose(long, createConfig("after"))
	must(t, err)
	if !has(p.store, "before") || !has(p.store, "after") {
		t.Error("what was acknowledged is not there")
	}

	// It also ends in order while it waits for space, and starts with none.
	fill(t, filepath.Dir(p.dir))
	eventually(t, time.Minute, "the disk takes nothing", func() bool {
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Propose(short, bulky(store.NewID()))
		return err != nil && p.Trouble() != nil
	})
	p.down()
}

// brittle is a disk that fails every third write, before it or after it.
type brittle struct {
	raft.LogStore
	writes atomic.Int64
}

// StoreLogs implements raft.LogStore.
func (b *brittle) StoreLogs(logs []*raft.Log) error {
	const each = 3
	n := b.writes.Add(1)
	if n%each != 0 {
		return b.LogStore.StoreLogs(logs)
	}
	if n%(2*each) == 0 { // it is on the disk, but nobody knows
		return errors.Join(syscall.EIO, b.LogStore.StoreLogs(logs))
	}
	return syscall.EIO
}

// StoreLog implements raft.LogStore.
func (b *brittle) StoreLog(l *raft.Log) error { return b.StoreLogs([]*raft.Log{l}) }

// On disks that fail again and again writes take longer, and each that is acknowledged is
// there once, everywhere.
func TestBrittleDisks(t *testing.T) {
	c := newCluster(t, 0)
	for i := range 3 {
		p := c.prepare(fmt.Sprintf("node%d", i+1), t.TempDir())
		if i < 2 {
			p.faults = func(l raft.LogStore) raft.LogStore { return &brittle{LogStore: l} }
		}
		c.start(p)
		c.peers = append(c.peers, p)
	}
	must(t, c.peers[2].Bootstrap())
	for _, p := range c.peers[:2] {
		c.admit(c.peers[2], p)
	}
	const writes = 20
	for i := range writes {
		long, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.peers[i%3].Propose(long, createConfig(fmt.Sprintf("w-%d", i)))
		must(t, err)
		cancel()
	}
	for _, p := range c.peers {
		eventually(t, time.Minute, p.id+" has all writes once", func() bool { return p.Barrier(ctx(t)) == nil && count(p.store) == writes })
	}
}
