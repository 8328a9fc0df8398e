package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// Options say what Up makes.
type Options struct {
	Name     string // default DefaultName
	Nodes    int    // default 3
	Managers int    // the first of the nodes; default all, and at most 3
	Bare     bool   // nodes run, but no swarm is made
	// EngineBridge leaves the engines their own bridge and packet filter, as on a machine where containers are run by hand, too.
	EngineBridge bool
	// EngineSwarm lets the engines make a swarm of their own, which they refuse to with live-restore on. No meshd runs; Bare and EngineBridge follow.
	EngineSwarm bool
	// IPv6Only: the machines have IPv6 addresses only, and the swarm is made with those. Otherwise they have both, and it is made with IPv4.
	IPv6Only bool
	// Meshd is the daemon to run; default is $MESHD, then the file meshd beside the running program, then the PATH.
	Meshd string
	// Progress gets one line for each thing that happened; nil is silent.
	Progress io.Writer
}

// Lab is a handle on a lab; its state is on disk, so that any number of programs can hold one.
type Lab struct {
	name     string
	mu       sync.Mutex // guards progress
	progress io.Writer
}

// Open returns a handle on a lab that is there.
func Open(name string, progress io.Writer) (*Lab, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if _, err := readRecord(name); err != nil {
		return nil, err
	}
	return &Lab{name: name, progress: progress}, nil
}

// Up makes a lab. If it fails on the way the lab stays for looking at its logs; Down removes it.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{name: o.Name, progress: o.Progress}
	r, err := l.reserve(o)
	if err != nil {
		return nil, err
	}
	l.say("lab %s: %d nodes on %s", l.name, len(r.Nodes), r.addresses(0)[0].Masked())
	if err := makeHub(r); err != nil {
		return l, err
	}
	if err := plug(r, Client); err != nil {
		return l, err
	}
	var group errgroup.Group // not WithContext: each node's own error is worth more than "canceled"
	for _, n := range r.Nodes {
		group.Go(func() error { return l.Start(ctx, n.Name) })
	}
	if err := group.Wait(); err != nil {
		return l, err
	}
	if o.Bare {
		return l, nil
	}
	return l, l.makeSwarm(ctx, r)
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Managers == 0 {
		o.Managers = min(o.Nodes, 3)
	}
	if o.EngineSwarm {
		o.Bare, o.EngineBridge = true, true
	}
	if err := checkName(o.Name); err != nil {
		return o, err
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return o, fmt.Errorf("%d nodes: a lab has 1 to %d", o.Nodes, maxNodes)
	}
	if o.Managers < 1 || o.Managers > o.Nodes {
		return o, fmt.Errorf("%d managers of %d nodes: a swarm has at least one, and no more than nodes", o.Managers, o.Nodes)
	}
	if os.Geteuid() != 0 {
		return o, errors.New("a lab needs root: it makes namespaces and runs Docker Engines")
	}
	if o.IPv6Only && !hasIPv6() {
		return o, errors.New("this machine's kernel has no IPv6")
	}
	var err error
	o.Meshd, err = findMeshd(o.Meshd)
	return o, err
}

func findMeshd(given string) (string, error) {
	for _, path := range []string{given, os.Getenv("MESHD")} {
		if path != "" {
			return filepath.Abs(path)
		}
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "meshd")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("meshd")
	if err != nil {
		return "", errors.New("no meshd beside this program or in the PATH: make build makes it, MESHD names another")
	}
	return filepath.Abs(path)
}

// reserve chooses the addresses and writes down what will be made.
func (l *Lab) reserve(o Options) (record, error) {
	unlock, err := lockAll()
	if err != nil {
		return record{}, err
	}
	defer unlock()
	if _, err := readRecord(o.Name); !errors.Is(err, ErrNotExist) {
		if err != nil {
			return record{}, err
		}
		return record{}, fmt.Errorf("lab %s is there already: meshctl lab down --name %s removes it", o.Name, o.Name)
	}
	taken, err := takenPrefixes()
	if err != nil {
		return record{}, err
	}
	names, err := labNames()
	if err != nil {
		return record{}, err
	}
	for _, name := range names {
		if other, err := readRecord(name); err == nil {
			taken = append(taken, other.Subnet)
		}
	}
	subnet, err := chooseSubnet(taken)
	if err != nil {
		return record{}, err
	}
	r := record{Name: o.Name, Boot: bootID(), Subnet: subnet, IPv6Only: o.IPv6Only, Meshd: o.Meshd, EngineBridge: o.EngineBridge, EngineSwarm: o.EngineSwarm}
	if hasIPv6() {
		r.Subnet6 = subnet6(subnet)
	}
	for i := 1; i <= o.Nodes; i++ {
		addrs := r.addresses(i)
		n := nodeRecord{Name: nodeName(i), Address: addrs[0].Addr(), Manager: i <= o.Managers}
		if last := addrs[len(addrs)-1].Addr(); last.Is6() {
			n.Address6 = last
		}
		r.Nodes = append(r.Nodes, n)
	}
	return r, writeRecord(r)
}

// Down removes a lab and whatever is left of it. It succeeds if there is none.
func Down(ctx context.Context, name string, progress io.Writer) error {
	if err := checkName(name); err != nil {
		return err
	}
	l := &Lab{name: name, progress: progress}
	r, err := readRecord(name)
	if err != nil && !errors.Is(err, ErrNotExist) {
		return err
	}
	if err == nil {
		if err := l.takeDown(ctx, r); err != nil {
			return err
		}
	}
	dirs := []string{filepath.Join(runRoot, name), filepath.Join(stateRoot, name)}
	for _, dir := range dirs {
		if err := removeDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{runRoot, stateRoot} {
		os.Remove(dir) // stays if it holds anything else
	}
	l.say("lab %s: gone", name)
	return nil
}

// takeDown is a power cut for all, and the removal of what only names hold alive.
func (l *Lab) takeDown(ctx context.Context, r record) error {
	ctx, cancel := limited(ctx, 2*killTimeout)
	defer cancel()
	var group errgroup.Group
	if r.Boot == bootID() {
		for _, n := range r.Nodes {
			group.Go(func() error { return n.Init.kill(ctx) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var paths []string
	for _, name := range r.namespaces() {
		paths = append(paths, netnsPath(l.name, name))
	}
	if err := killIn(ctx, paths); err != nil {
		return err
	}
	for _, name := range r.namespaces() {
		if err := delNetns(netnsName(l.name, name)); err != nil {
			return err
		}
	}
	return removeCgroups(ctx, filepath.Dir(cgroupParent(l.name, "x")))
}

// removeDir first unmounts what is mounted below, so that it never deletes through a mount.
func removeDir(dir string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	mounts := parseMountinfo(string(raw))
	for _, m := range slices.Backward(mounts) { // later mounts may lie on earlier ones
		if target := m.target; target == dir || strings.HasPrefix(target, dir+"/") {
			if err := unmount(target); err != nil {
				return fmt.Errorf("unmount %s: %w", target, err)
			}
		}
	}
	return os.RemoveAll(dir)
}

func (l *Lab) node(name string) (nodeRecord, error) {
	r, err := readRecord(l.name)
	if err != nil {
		return nodeRecord{}, err
	}
	return r.node(name)
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.name }

// MeshdClient returns a client of the API that the node's meshd serves.
func (l *Lab) MeshdClient(node string) (*client.Client, error) { return l.dialNode(node, meshdSocket) }

// MeshdHTTP asks a node's meshd for what Docker's client does not know; the host of URLs is any.
func (l *Lab) MeshdHTTP(node string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", meshdSocket(l.name, node))
		},
	}}
}

// EngineClient returns a client of the node's own Docker Engine.
func (l *Lab) EngineClient(node string) (*client.Client, error) {
	return l.dialNode(node, engineSocket)
}

func (l *Lab) dialNode(node string, socket func(lab, node string) string) (*client.Client, error) {
	if _, err := l.node(node); err != nil {
		return nil, err
	}
	return dial(socket(l.name, node))
}

func dial(socket string) (*client.Client, error) {
	return client.New(client.WithHost("unix://" + socket))
}

// Partition cuts every connection between the groups ("node1,node2", "node3"); nodes in no group make one more. A new partition
// replaces the one before.
func (l *Lab) Partition(groups ...string) error {
	r, err := readRecord(l.name)
	if err != nil {
		return err
	}
	var nodes []string
	for _, n := range r.Nodes {
		nodes = append(nodes, n.Name)
	}
	list, err := cuts(nodes, splitGroups(groups))
	if err != nil {
		return err
	}
	return applyCuts(l.name, list)
}

// Heal ends a partition.
func (l *Lab) Heal() error {
	if _, err := readRecord(l.name); err != nil {
		return err
	}
	return applyCuts(l.name, nil)
}

func (l *Lab) logPath(node, daemon string) string {
	file := map[string]string{Meshd: "meshd.log", Engine: "docker.log", containerd: "containerd.log"}[daemon]
	return filepath.Join(runDir(l.name, node), file)
}

// Logs copies a node's logs, the engine's first.
func (l *Lab) Logs(w io.Writer, node string) error {
	if _, err := l.node(node); err != nil {
		return err
	}
	for _, daemon := range []string{Engine, Meshd} {
		raw, err := os.ReadFile(l.logPath(node, daemon))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := fmt.Fprintf(w, "==> %s <==\n%s\n", l.logPath(node, daemon), raw); err != nil {
			return err
		}
	}
	return nil
}

// Said returns the lines that a node's meshd has logged from a moment on.
func (l *Lab) Said(node string, from time.Time) (lines []string, err error) {
	raw, err := os.ReadFile(l.logPath(node, Meshd))
	for line := range strings.Lines(string(raw)) {
		stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil && !at.Before(from) {
			lines = append(lines, line)
		}
	}
	return lines, err
}

// tail returns the last lines of a file, for an error's text.
func tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (l *Lab) say(format string, args ...any) {
	if l.progress == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.progress, format+"\n", args...)
}
