package nat

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestConforms(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	ipvstest.Conform(t, func(t *testing.T) func() ipvstest.Holder {
		runtime.LockOSThread() // never unlocked: the thread ends with the test
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		return func() ipvstest.Holder { return New() }
	})
}

func TestConnectionsAreSpreadAndSeeTheirClient(t *testing.T) {
	r := newRig(t)
	r.set(state(nil))
	for what, to := range ways() {
		for _, network := range []string{"tcp", "udp"} {
			n, seen, err := r.call(network, to)
			if want := addr4(client).String(); to.Addr().Is4() && seen != want || to.Addr().Is6() && seen != addr6(client).String() || err != nil {
				t.Errorf("%s, %s: %d takes the client for %s, %v", what, network, n, seen, err)
			}
		}
		if got := r.chosen("tcp", to); len(got) != lastBackend-client {
			t.Errorf("%s: connections went to %v", what, got)
		}
	}
}

func TestTheNodeAndItsBackendsMayCall(t *testing.T) {
	r := newRig(t)
	r.set(state(func(s *ipvs.Service) { s.PreferLocal = true }))
	for what, to := range ways() {
		for who, from := range map[string]string{"the node": r.node, "the only backend that is asked": r.ns(firstBackend)} {
			if from == r.node && to.Port() == 80 {
				continue // nodes have no way to virtual addresses
			}
			c, err := r.dial(from, "tcp", to)
			if err != nil {
				t.Errorf("%s calls %s: %v", who, what, err)
				continue
			}
			if n, _, err := ask(c); n != firstBackend || err != nil {
				t.Errorf("%s calls %s: %d, %v", who, what, n, err)
			}
			_ = c.Close()
		}
	}
}

// A port that is published on all addresses, and on one of them by another service, is the other's there.
func TestOneAddressCountsBeforeAll(t *testing.T) {
	r := newRig(t)
	s := state(nil)
	one := ways()["published port, other device"]
	for _, svc := range s.Services {
		if svc.Everywhere() && svc.Protocol == ipvs.TCP && svc.Backends[0].Addr.Is4() {
			svc.VIP, svc.Backends = one.Addr(), svc.Backends[1:2]
			s.Services = append(s.Services, svc)
		}
	}
	r.set(s)
	if got := r.chosen("tcp", one); got[firstBackend+1] != many {
		t.Errorf("at that address: %v", got)
	}
	if got := r.chosen("tcp", ways()["published port"]); len(got) != lastBackend-client {
		t.Errorf("at another one: %v", got)
	}
}

// An ejected backend keeps its connections, and gets no new ones.
func TestEjectedKeepConnections(t *testing.T) {
	r := newRig(t)
	r.set(state(func(s *ipvs.Service) { s.Backends = s.Backends[:1] }))
	to := ways()["virtual address"]
	c, err := r.dial(r.ns(client), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before, _, err := ask(c)
	r.set(state(func(s *ipvs.Service) { s.Backends[0].Ejected = true }))
	after, _, aerr := ask(c)
	if err := errors.Join(err, aerr); err != nil || before != firstBackend || after != firstBackend {
		t.Errorf("the connection went to %d, then to %d, %v", before, after, err)
	}
	if got := r.chosen("tcp", to); got[firstBackend] != 0 {
		t.Errorf("new connections: %v", got)
	}
}

func TestNobodyServes(t *testing.T) {
	r := newRig(t)
	for what, change := range map[string]func(*ipvs.Service){
		"no backend": func(s *ipvs.Service) { s.Backends = nil },
		"none here":  func(s *ipvs.Service) { s.Backends, s.LocalOnly = s.Backends[1:], s.Published() },
	} {
		r.set(state(change))
		if _, _, err := r.call("tcp", ways()["published port"]); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.set(ipvs.State{})
	if err := within(r.node, func() error {
		out, err := exec.Command("nft", "list", "tables").Output()
		if strings.Contains(string(out), Table) {
			t.Errorf("left: %s", out)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestFlushedRulesAreMissed(t *testing.T) {
	r := newRig(t)
	held := func() (n int) {
		if err := within(r.node, func() error {
			s, err := r.b.Held()
			n = len(s.Services)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.set(state(nil))
	if held() != 6 {
		t.Fatalf("%d services are held", held())
	}
	for _, harm := range []string{"flush ruleset", "flush chain inet " + Table + " prerouting", "flush chain inet " + Table + " service-0", "delete table inet " + Table} {
		r.sh("ip", "netns", "exec", r.node, "nft", harm)
		if held() != 0 {
			t.Errorf("%s is not noticed", harm)
		}
		r.set(state(nil))
		if _, _, err := r.call("tcp", ways()["published port"]); err != nil || held() != 6 {
			t.Errorf("after %q and its repair: %v", harm, err)
		}
	}
}
