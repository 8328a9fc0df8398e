package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// TestMain is four programs in one: the tests, a node's init, a stand-in for meshd that answers on its socket and no more, and a probe.
func TestMain(m *testing.M) {
	if code, ran := Reexec(); ran {
		os.Exit(code)
	}
	if len(os.Args) > 2 && os.Args[1] == "--socket" {
		if err := standIn(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "--probe" {
		if err := probe(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// probe is nil if the machine answers at all: a refused connection (the discard port, RFC 863) is an answer.
func probe(addr string) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "9"), time.Second)
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}

func standIn(socket string) error {
	os.Remove(socket) // as after a power cut
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("stand-in listens")
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Swarm", "inactive")
		io.WriteString(w, "OK")
	}))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("needs a Docker Engine on this machine: make setup")
	}
}

// bareLab makes a lab with the stand-in and checks after the test that nothing of it is left.
func bareLab(t *testing.T, suffix string, nodes int) *Lab {
	t.Helper()
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("lab%d%s", os.Getpid(), suffix)
	t.Cleanup(func() {
		if err := Down(context.Background(), name, nil); err != nil {
			t.Error(err)
		}
		for _, rest := range leftovers(t, name) {
			t.Error("left behind: " + rest)
		}
	})
	l, err := Up(t.Context(), Options{Name: name, Nodes: nodes, Bare: true, Meshd: self, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// leftovers looks for the lab's name wherever a lab puts something.
func leftovers(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		filepath.Join(netnsRoot, name+"-*"), filepath.Join(runRoot, name), filepath.Join(stateRoot, name),
		"/sys/fs/cgroup/meshd-" + name, "/sys/fs/cgroup/*/meshd-" + name,
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		raw, err := os.ReadFile(path) // empty for zombies
		if err == nil && bytes.Contains(raw, []byte(name)) {
			found = append(found, path+": "+string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), name) {
		found = append(found, "a mount")
	}
	return found
}

func output(l *Lab, node, path string, args ...string) (string, error) {
	cmd := exec.Command(path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := l.Exec(node, cmd)
	return out.String(), err
}

func mustOutput(t *testing.T, l *Lab, node, path string, args ...string) string {
	t.Helper()
	out, err := output(l, node, path, args...)
	if err != nil {
		t.Fatalf("%s: %s %v: %v\n%s", node, path, args, err, out)
	}
	return out
}

// reaches probes an address from inside of a machine of the lab.
func reaches(l *Lab, from, addr string) error {
	out, err := output(l, from, "/proc/self/exe", "--probe", addr)
	if err != nil {
		return fmt.Errorf("%s does not reach %s: %w: %s", from, addr, err, out)
	}
	return nil
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, try); err != nil {
		t.Fatal(err)
	}
}

func states(t *testing.T, l *Lab) string {
	t.Helper()
	infos, err := l.Ls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, n := range infos {
		list = append(list, n.Name+" "+n.State+" "+n.Role)
	}
	return strings.Join(list, ", ")
}

func TestNodesAreMachinesOfTheirOwn(t *testing.T) {
	l := bareLab(t, "a", 2)
	if got, want := states(t, l), "node1 running none, node2 running none"; got != want {
		t.Errorf("states: %s, want %s", got, want)
	}
	if got := strings.TrimSpace(mustOutput(t, l, "node2", "hostname")); got != "node2" {
		t.Errorf("hostname of node2: %q", got)
	}
	if got := mustOutput(t, l, "node1", "ls", "/run/docker.sock", "/run/meshd/meshd.sock"); strings.Contains(got, "cannot") {
		t.Error(got)
	}
	infos, err := l.Ls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"node1", "node2", Client} {
		for _, to := range infos {
			for _, addr := range []string{to.Address, to.Address6} {
				if err := reaches(l, from, addr); err != nil {
					t.Error(err)
				}
			}
		}
	}
	began := time.Now()
	if err := reaches(l, "node1", "192.0.2.99"); err == nil || time.Since(began) > 900*time.Millisecond {
		t.Errorf("the outside world must be refused at once; after %v: %v", time.Since(began), err)
	}
	var exit *exec.ExitError
	if _, err := output(l, "node1", "sh", "-c", "exit 7"); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit status 7 came back as %v", err)
	}
}

func TestKillStopAndStart(t *testing.T) {
	l := bareLab(t, "k", 2)
	infos, err := l.Ls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address := infos[0].Address
	volumes := func() []string {
		api, err := l.EngineClient("node1")
		if err != nil {
			t.Fatal(err)
		}
		defer api.Close()
		if _, err := api.VolumeCreate(t.Context(), client.VolumeCreateOptions{Name: fmt.Sprint("made", time.Now().UnixNano())}); err != nil {
			t.Fatal(err)
		}
		list, err := api.VolumeList(t.Context(), client.VolumeListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, v := range list.Items {
			names = append(names, v.Name)
		}
		return names
	}
	before := len(volumes())
	for _, way := range []struct {
		name string
		end  func(context.Context, string) error
	}{{"kill", l.Kill}, {"stop", l.Stop}} {
		if err := way.end(t.Context(), "node1"); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if got, want := states(t, l), "node1 stopped manager, node2 running none"; got != want {
			t.Errorf("after %s: %s, want %s", way.name, got, want)
		}
		if reaches(l, "node2", address) == nil {
			t.Errorf("after %s: the node still answers", way.name)
		}
		if err := l.Start(t.Context(), "node1"); err != nil {
			t.Fatalf("start after %s: %v", way.name, err)
		}
		eventually(t, func() error { return reaches(l, "node2", address) })
		if got := volumes(); len(got) != before+1 {
			t.Errorf("after %s and start the engine has %v, %d before", way.name, got, before)
		}
		before++
	}
}

// sampleImage builds the sample application's image.
func sampleImage(t *testing.T) string {
	t.Helper()
	program, image := filepath.Join(t.TempDir(), "sample"), filepath.Join(t.TempDir(), "sample.tar")
	for _, args := range [][]string{{"build", "-o", program, "../sample"}, {"run", "../sample/image", program, image}} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	return image
}

func TestContainersEndWithTheirNode(t *testing.T) {
	l := bareLab(t, "e", 2)
	if err := l.Load(t.Context(), sampleImage(t)); err != nil {
		t.Fatal(err)
	}
	if err := l.Load(t.Context(), "meshd/sample:2"); err != nil {
		t.Errorf("load from a node: %v", err)
	}
	if err := l.Load(t.Context(), "no/such:image"); err == nil {
		t.Error("an image that nobody has was loaded")
	}
	api, err := l.EngineClient("node1")
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	created, err := api.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Image: "meshd/sample:latest", HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name   string
		end    func(context.Context, string) error
		status int // of the container, as the engine sees it in its next life
	}{{"kill", l.Kill, 255}, {"stop", l.Stop, 0}} {
		if _, err := api.ContainerStart(t.Context(), created.ID, client.ContainerStartOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := way.end(t.Context(), "node1"); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if left, err := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent(l.Name(), "node1")); err != nil || len(left) > 0 {
			t.Errorf("after %s: cgroups %v, %v", way.name, left, err)
		}
		if err := l.Start(t.Context(), "node1"); err != nil {
			t.Fatal(err)
		}
		got, err := api.ContainerInspect(t.Context(), created.ID, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Container.State.Running || got.Container.State.ExitCode != way.status {
			t.Errorf("after %s and start the container is %+v, want status %d", way.name, got.Container.State, way.status)
		}
	}
}

func TestDaemonsCanBeKilledAlone(t *testing.T) {
	l := bareLab(t, "d", 1)
	for _, daemon := range []string{Meshd, Engine} {
		if err := l.Signal(t.Context(), "node1", daemon, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitEnded(t.Context(), "node1", daemon); err != nil {
			t.Fatal(err)
		}
		if got, want := states(t, l), "node1 degraded"; !strings.HasPrefix(got, want) {
			t.Errorf("%s killed: %s, want %s", daemon, got, want)
		}
		if pids, err := l.Processes("node1", Engine); (daemon == Engine) != (err != nil) || err == nil && len(pids) != 1 {
			t.Errorf("%s killed: the processes of the engine are %v, %v", daemon, pids, err)
		}
		if err := l.Start(t.Context(), "node1"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := states(t, l), "node1 running none"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestPartitionAndHeal(t *testing.T) {
	l := bareLab(t, "p", 3)
	infos, err := l.Ls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Partition("node1,node2", "node3"); err != nil {
		t.Fatal(err)
	}
	if err := reaches(l, "node1", infos[1].Address); err != nil {
		t.Error(err)
	}
	if reaches(l, "node1", infos[2].Address) == nil || reaches(l, "node3", infos[0].Address) == nil {
		t.Error("node1 and node3 reach each other across the cut")
	}
	if err := reaches(l, Client, infos[2].Address); err != nil {
		t.Error(err)
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return reaches(l, "node1", infos[2].Address) })
}

func TestTwoLabsSideBySide(t *testing.T) {
	one, two := bareLab(t, "x", 1), bareLab(t, "y", 1)
	first, err := one.Ls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := two.Ls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first[0].Address == second[0].Address {
		t.Errorf("both labs use %s", first[0].Address)
	}
	if _, err := Up(t.Context(), Options{Name: one.Name(), Meshd: "/bin/true"}); err == nil {
		t.Error("the same name twice was accepted")
	}
	if reaches(one, "node1", second[0].Address) == nil {
		t.Error("the labs reach each other")
	}
}

// Half-made labs are what a crash of `lab up` leaves: the record is there, anything else may be or not.
func TestDownAfterCrash(t *testing.T) {
	needRoot(t)
	name := fmt.Sprintf("lab%dc", os.Getpid())
	l := &Lab{name: name}
	steps := []struct {
		what string
		do   func(r record) error
	}{
		{"record", func(r record) error { return nil }},
		{"hub", func(r record) error { return makeHub(r) }},
		{"a file that is no namespace yet", func(r record) error {
			return os.WriteFile(netnsPath(name, Client), nil, 0o444)
		}},
	}
	for n := 1; n <= len(steps); n++ {
		r, err := l.reserve(Options{Name: name, Nodes: 2, Managers: 2, Meshd: "/bin/true"})
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range steps[:n] {
			if err := step.do(r); err != nil {
				t.Fatalf("%s: %v", step.what, err)
			}
		}
		if err := Down(t.Context(), name, nil); err != nil {
			t.Fatalf("down after %s: %v", steps[n-1].what, err)
		}
		for _, rest := range leftovers(t, name) {
			t.Errorf("after %s left behind: %s", steps[n-1].what, rest)
		}
	}
	if err := Down(t.Context(), name, nil); err != nil {
		t.Errorf("down of no lab: %v", err)
	}
}

// An init that was started but not yet recorded is found by its network namespace.
func TestDownFindsUnrecordedInit(t *testing.T) {
	l := bareLab(t, "u", 1)
	err := updateNode(l.name, "node1", func(n *nodeRecord) { n.Init = process{} })
	if err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), l.name, nil); err != nil {
		t.Fatal(err)
	}
	for _, rest := range leftovers(t, l.name) {
		t.Error("left behind: " + rest)
	}
}
