package nft

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// firewall is a network namespace with iptables' tables as Docker leaves them;
// the test's thread is in it.
type firewall struct {
	t    *testing.T
	cmd  string
	v6   bool
	name string
}

func newFirewall(t *testing.T, v6 bool) *firewall {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	f := &firewall{t: t, v6: v6, cmd: "iptables-nft", name: fmt.Sprintf("nft%d-%t", os.Getpid(), v6)}
	if v6 {
		f.cmd = "ip6tables-nft"
	}
	if _, err := exec.LookPath(f.cmd); err != nil {
		t.Skipf("SKIPPED: no %s here", f.cmd)
	}
	f.sh("ip", "netns", "add", f.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", f.name).Run() })
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	file, err := os.Open(filepath.Join("/run/netns", f.name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *firewall) sh(name string, args ...string) string {
	f.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (f *firewall) tables(args string) string {
	f.t.Helper()
	return f.sh(f.cmd, strings.Fields(args)...)
}

// docker makes what Docker Engine makes.
func (f *firewall) docker() {
	f.t.Helper()
	f.tables("-P FORWARD DROP")
	f.tables("-N DOCKER-USER")
	f.tables("-A FORWARD -j DOCKER-USER")
}

// must compares DOCKER-USER with the rules wanted, less what all have in common.
func (f *firewall) must(want ...string) {
	f.t.Helper()
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(f.tables("-S DOCKER-USER")), "\n") {
		if rule, ok := strings.CutPrefix(line, "-A DOCKER-USER "); ok {
			got = append(got, rule)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		f.t.Errorf("DOCKER-USER:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (f *firewall) put() {
	f.t.Helper()
	if err := PutAccept(f.v6, AcceptsAll); err != nil {
		f.t.Fatal(err)
	}
	f.holds(AcceptsAll)
}

func (f *firewall) holds(want Accepting) {
	f.t.Helper()
	if got, err := AcceptingOf(f.v6); err != nil || got != want {
		f.t.Errorf("accepting: %v, %v, want %v", got, err, want)
	}
}

const (
	ruleOut  = "-i mv+ -m comment --comment meshd -j ACCEPT"
	ruleBack = "-o mv+ -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment meshd -j ACCEPT"
	denial   = "-i eth7 -j DROP"
	closing  = "-j RETURN"
)

func eachFamily(t *testing.T, test func(f *firewall)) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) { test(newFirewall(t, v6)) })
	}
}

func TestForwardingIsTold(t *testing.T) {
	eachFamily(t, func(f *firewall) {
		for what, want := range map[string]Forwarding{"": ForwardingOpen, "-P FORWARD ACCEPT": ForwardingOpen, "-P FORWARD DROP": ForwardingDropped} {
			if what != "" {
				f.tables(what)
			}
			if got, err := ForwardingOf(f.v6); err != nil || (got != want && what != "") {
				f.t.Errorf("%q: %v, %v", what, got, err)
			}
		}
		f.docker()
		if got, err := ForwardingOf(f.v6); err != nil || got != ForwardingDocker {
			f.t.Errorf("with DOCKER-USER: %v, %v", got, err)
		}
	})
}

func TestRulesStandBehindTheHostsOwn(t *testing.T) {
	eachFamily(t, func(f *firewall) {
		f.docker()
		f.holds(AcceptsNothing)
		f.put()
		f.must(ruleOut, ruleBack)
		f.tables("-F DOCKER-USER")
		f.tables("-A DOCKER-USER " + denial)
		f.tables("-A DOCKER-USER " + closing)
		for range 2 { // once, however often it is asked for
			f.put()
			f.must(denial, ruleOut, ruleBack, closing)
		}
		f.tables("-C DOCKER-USER " + ruleBack)
		if err := DeleteAccept(f.v6); err != nil {
			f.t.Fatal(err)
		}
		f.must(denial, closing)
		if err := DeleteAccept(f.v6); err != nil {
			f.t.Errorf("again: %v", err)
		}
	})
}

func TestAConditionalReturnClosesNothing(t *testing.T) {
	eachFamily(t, func(f *firewall) {
		f.docker()
		f.tables("-A DOCKER-USER -i eth7 -j RETURN")
		f.put()
		f.must("-i eth7 -j RETURN", ruleOut, ruleBack)
	})
}

func TestHalfOfTheRulesIsSeen(t *testing.T) {
	eachFamily(t, func(f *firewall) {
		f.docker()
		f.put()
		f.tables("-D DOCKER-USER " + ruleOut)
		f.holds(AcceptsInPart)
		f.put()
		f.must(ruleOut, ruleBack)
	})
}

func TestRulesAreKnownAgainAfterSaveAndRestore(t *testing.T) {
	eachFamily(t, func(f *firewall) {
		f.docker()
		f.put()
		f.sh("sh", "-c", f.cmd+"-save | "+f.cmd+"-restore")
		f.holds(AcceptsAll)
		if err := DeleteAccept(f.v6); err != nil {
			f.t.Fatal(err)
		}
		f.must()
	})
}

func TestWithoutTheChainThereIsNothingToDelete(t *testing.T) {
	eachFamily(t, func(f *firewall) {
		if err := DeleteAccept(f.v6); err != nil {
			f.t.Error(err)
		}
		if err := PutAccept(f.v6, AcceptsAll); err == nil {
			f.t.Error("rules were put into a chain that is not there")
		}
	})
}
