package dataplane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/ipvs/kernel"
	"github.com/meshd/meshd/ipvs/nat"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/overlaytest"
	"github.com/meshd/meshd/overlay/wireguard"
)

// With this variable set the test binary is a node's daemon: it serves commands
// from its standard input, in the network namespace that it was started in.
const daemonEnv = "DATAPLANE_TEST_RUNDIR"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == wireguard.HelperCommand {
		if err := wireguard.Serve(os.Args[2:]); err != nil {
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(daemonEnv); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, "daemon:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// request asks a daemon for one thing: what is not nil.
type request struct {
	Overlay *overlay.State
	IPVS    *ipvs.State
	Attach  *overlay.Attachment
	Stats   bool
	Keys    bool
}

type response struct {
	Peer  string
	Keys  []wireguard.PublicKey
	Drops map[string]uint64
	Err   string
}

func serve(dir string) error {
	if err := overlaytest.OwnRun(dir); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	driver := overlay.Driver(os.Getenv("DATAPLANE_TEST_DRIVER"))
	// A balancer that asks the packet filter is the usual one.
	admit := os.Getenv("DATAPLANE_TEST_BYPASS") == "" && driver != overlay.DriverBridge
	if admit && !overlay.CanAdmit() {
		return errors.New("this kernel cannot ask the packet filter about published ports")
	}
	o, err := overlay.New(overlay.Config{
		Driver: driver, Admit: admit, RunDir: dir, KeyFile: filepath.Join(dir, "wireguard.json"), Resync: time.Second, Logger: log, NoTCX: os.Getenv("DATAPLANE_TEST_NOTCX") != "",
	})
	if err != nil {
		return err
	}
	b, err := openBalancer(o, dir, admit, log)
	if err != nil {
		return errors.Join(err, o.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- o.Run(ctx) }()
	err = answer(o, b)
	cancel()
	<-ran
	return errors.Join(err, b.Close(), o.Close())
}

// openBalancer gives one as the environment asks for, which takes over from whatever led before.
func openBalancer(o *overlay.Overlay, dir string, admit bool, log *slog.Logger) (ipvs.Layers, error) {
	b := ipvs.Layers{Leads: os.Getenv("DATAPLANE_TEST_IPVS") != "", Marker: filepath.Join(dir, "ipvs")}
	if b.Leads || b.Left() {
		inside, err := kernel.New(kernel.Config{Namespace: func(a ipvs.ClientAddr) (*os.File, error) { return o.Namespace(a.VNI, a.Addr) }, Logger: log})
		if err != nil {
			return b, err
		}
		b.Inside = inside
	}
	if os.Getenv("DATAPLANE_TEST_DRIVER") == string(overlay.DriverBridge) {
		b.Node = nat.New()
		return b, nil
	}
	node, err := ebpf.New(ebpf.Config{
		HooksPath: o.HooksPath(), PinDir: filepath.Join(dir, "bpf", "ipvs"), Connections: 8192, Logger: log,
		Mode: ebpf.Mode(os.Getenv("DATAPLANE_TEST_MODE")), Admit: admit,
	})
	b.Node = node
	return b, err
}

func answer(o *overlay.Overlay, b ipvs.Layers) error {
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(response{Peer: "ready"}); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var q request
		if err := in.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := handle(o, b, q)
		if err != nil {
			r.Err = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func handle(o *overlay.Overlay, b ipvs.Layers, q request) (r response, err error) {
	switch {
	case q.Overlay != nil:
		return r, o.Set(*q.Overlay)
	case q.IPVS != nil:
		return r, b.Set(*q.IPVS)
	case q.Attach != nil:
		r.Peer, err = o.Attach(*q.Attach)
		return r, err
	case q.Keys:
		r.Keys, _ = o.Keys()
		return r, nil
	}
	if r.Drops, err = o.Drops(); err != nil {
		return r, err
	}
	counts, ok := b.Node.(*ebpf.Balancer)
	if !ok {
		return r, nil
	}
	s, err := counts.Stats()
	for reason, n := range s.Drops {
		r.Drops["balancer: "+reason] = n
	}
	return r, err
}

// daemon is the process of a node.
type daemon struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *bufio.Scanner
}

func startDaemon(t *testing.T, ns, dir string, env []string) (*daemon, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), daemonEnv+"="+dir), env...)
	cmd.Stderr = &logWriter{t, ns}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := in(ns, cmd.Start); err != nil {
		return nil, err
	}
	d := &daemon{cmd, json.NewEncoder(stdin), bufio.NewScanner(stdout)}
	d.out.Buffer(nil, 1<<20)
	_, err = d.read()
	return d, err
}

func (d *daemon) read() (r response, err error) {
	if !d.out.Scan() {
		return r, errors.Join(errors.New("the daemon ended"), d.out.Err())
	}
	if err = json.Unmarshal(d.out.Bytes(), &r); err == nil && r.Err != "" {
		err = errors.New(r.Err)
	}
	return r, err
}

func (d *daemon) ask(q request) (response, error) {
	if err := d.in.Encode(q); err != nil {
		return response{}, err
	}
	return d.read()
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

type logWriter struct {
	t    *testing.T
	name string
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s: %s", w.name, b)
	return len(b), nil
}
