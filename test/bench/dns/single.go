package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/meshd/meshd/dns"
)

// services is how many names there are.
const services = 1000

func name(i int) string     { return fmt.Sprintf("service-%d", i) }
func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// serveNames is the resolver under measurement, until it gets a signal.
func serveNames(ctx context.Context, on, profile string) error {
	listen, err := netip.ParseAddrPort(on)
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	zone := dns.Zone{Network: "front", Names: map[string]dns.Name{}}
	for i := range services {
		zone.Names[name(i)] = dns.Name{Addrs: []netip.Addr{addr(i)}}
	}
	s := dns.New(dns.Config{})
	s.Set(dns.State{
		Listen: []netip.AddrPort{listen}, Zones: map[string]dns.Zone{"n": zone},
		Clients: map[netip.Addr]dns.Client{netip.AddrFrom4([4]byte{127, 0, 0, 1}): {Zones: []string{"n"}}},
	})
	return s.Run(ctx)
}

// onOneCPU measures resolvers that have the machine's first CPU alone; dnsperf has
// the second.
func onOneCPU(ctx context.Context, o options) error {
	var names []string
	var hosts bytes.Buffer
	for i := range services {
		names = append(names, name(i))
		fmt.Fprintf(&hosts, "%s %s\n", addr(i), name(i))
	}
	asked := filepath.Join(o.dir, "queries")
	if err := errors.Join(queries(asked, names), os.WriteFile(filepath.Join(o.dir, "hosts"), hosts.Bytes(), 0o644)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	servers := []struct {
		name string
		port string
		args []string
	}{{"meshd", "5301", []string{self, "-serve", "127.0.0.1:5301", "-profile", o.profile}}}
	if o.coredns != "" {
		corefile := fmt.Sprintf(".:5302 {\n bind 127.0.0.1\n hosts %s/hosts {\n ttl 5\n }\n}\n", o.dir)
		if err := os.WriteFile(filepath.Join(o.dir, "Corefile"), []byte(corefile), 0o644); err != nil {
			return err
		}
		servers = append(servers, struct {
			name string
			port string
			args []string
		}{"CoreDNS", "5302", []string{o.coredns, "-quiet", "-conf", filepath.Join(o.dir, "Corefile")}})
	}
	var contenders []*contender
	for _, s := range servers {
		pid, stop, err := start(ctx, s.port, s.args)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer stop()
		contenders = append(contenders, &contender{name: s.name, pid: pid, dnsperf: func(args ...string) ([]byte, error) {
			args = append([]string{"-c", "1", o.dnsperf, "-s", "127.0.0.1", "-p", s.port}, args...)
			return exec.CommandContext(ctx, "taskset", args...).CombinedOutput()
		}})
	}
	fmt.Println("One CPU each, over loopback:")
	fmt.Println()
	head(o)
	return measure(o, asked, contenders)
}

// start runs a server on the first CPU and waits until it listens.
func start(ctx context.Context, port string, args []string) (pid int, stop func(), err error) {
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", "0"}, args...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
			return cmd.Process.Pid, stop, nil // taskset became the server
		}
		if time.Now().After(deadline) {
			stop()
			return 0, nil, err
		}
	}
}
