package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/meshd/meshd/test/lab"
)

// nameServer is what a task asks for what its networks do not know: on the machine outside.
type nameServer struct {
	mu     sync.Mutex
	zone   map[string][]mdns.RR // by lower-case name
	broken bool
	asked  map[string]int
}

func (s *nameServer) ServeDNS(w mdns.ResponseWriter, r *mdns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToLower(r.Question[0].Name)
	s.asked[name]++
	m := new(mdns.Msg).SetReply(r)
	rrs, known := s.zone[name]
	switch {
	case s.broken:
		m.Rcode = mdns.RcodeServerFailure
	case !known:
		m.Rcode = mdns.RcodeNameError
	}
	if !s.broken {
		for _, rr := range rrs {
			if rr.Header().Rrtype == r.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	if len(m.Answer) == 0 && !s.broken {
		m.Ns = records("test. 60 IN SOA ns.test. root.test. 1 3600 600 86400 60")
	}
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(mdns.MinMsgSize)
	}
	_ = w.WriteMsg(m)
}

func (s *nameServer) times(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *nameServer) breakDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
}

func records(text ...string) []mdns.RR {
	var out []mdns.RR
	for _, line := range text {
		rr, err := mdns.NewRR(line)
		if err != nil {
			panic(err)
		}
		out = append(out, rr)
	}
	return out
}

// serveNames answers on port 53 of the machine outside until the test ends.
func (c *cluster) serveNames(zone map[string][]mdns.RR) (s *nameServer, addr string) {
	c.t.Helper()
	s = &nameServer{zone: zone, asked: map[string]int{}}
	addr = c.addressesOf(lab.Client)[0]
	var packets net.PacketConn
	var listener net.Listener
	err := lab.InNetns(c.name+"-client", func() (err error) {
		if packets, err = net.ListenPacket("udp", net.JoinHostPort(addr, "53")); err == nil {
			listener, err = net.Listen("tcp", net.JoinHostPort(addr, "53"))
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, server := range []*mdns.Server{{PacketConn: packets, Handler: s}, {Listener: listener, Handler: s}} {
		done := make(chan error, 1)
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { done <- server.ActivateAndServe() }()
		<-started
		c.t.Cleanup(func() {
			_ = server.Shutdown()
			<-done
		})
	}
	return s, addr
}

// testNamesOfOthers asks from a container for names that its networks do not know.
func testNamesOfOthers(t *testing.T, c *cluster) {
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("many.test. 60 IN A 192.0.2.%d", i+1))
	}
	s, addr := c.serveNames(map[string][]mdns.RR{
		"one.test.": records("one.test. 60 IN A 192.0.2.1"), "many.test.": records(many...),
		"printer.corp.test.": records("printer.corp.test. 60 IN A 192.0.2.9"), "brief.test.": records("brief.test. 1 IN A 192.0.2.7"),
		"a.b.corp.test.": records("a.b.corp.test. 60 IN A 192.0.2.10"),
	})
	c.mustDocker("node1", "service", "create", "-d", "-q", "--no-resolve-image", "--name", "asker", "--network", "front",
		"--dns", addr, "--dns-search", "corp.test", "--dns-option", "ndots:2", image)
	c.running("node1", "asker", 1)
	from := c.tasks("node1", "asker")[0]
	for _, ask := range []struct {
		args, want []string
	}{
		{[]string{"-type", "A", "one.test"}, []string{"192.0.2.1"}},
		{[]string{"-type", "A", "-tcp", "ONE.test"}, []string{"192.0.2.1"}},
		{[]string{"-type", "AAAA", "one.test"}, []string{"NOERROR"}},
		{[]string{"printer"}, []string{"192.0.2.9"}}, // completed
		{[]string{"a.b"}, []string{"192.0.2.10"}},    // has fewer dots than ndots
		{[]string{"-type", "A", "localhost"}, []string{"127.0.0.1"}},
		{[]string{"-type", "AAAA", "x.localhost"}, []string{"::1"}},
		{[]string{"-type", "PTR", "127.0.0.1"}, []string{"localhost."}},
	} {
		if got := c.gives(from, len(ask.want), ask.args...); !slices.Equal(got, ask.want) {
			t.Errorf("%v = %v, want %v", ask.args, got, ask.want)
		}
	}
	c.gives(from, 100, "many.test") // over TCP, since they do not fit
	c.absent(from, "-type", "A", "nosuch.test")
	before := s.times("nosuch.test.")
	c.absent(from, "-type", "A", "NOSUCH.test")
	if now := s.times("nosuch.test."); before == 0 || now != before {
		t.Errorf("asked %d times for what does not exist, then %d", before, now)
	}
	testNamesOfNobody(t, c, s, from)
	c.gives(from, 1, "-type", "A", "brief.test")
	s.breakDown()
	before = s.times("brief.test.")
	c.eventually("it is asked again, in vain, and the old answer given", func() error {
		got, err := c.lookup(from, "-type", "A", "brief.test")
		if err != nil || !slices.Equal(got, []string{"192.0.2.7"}) {
			return fmt.Errorf("%v, %w", got, err)
		}
		if s.times("brief.test.") == before {
			return fmt.Errorf("not asked again")
		}
		return nil
	})
	c.mustDocker("node1", "service", "rm", "asker")
}

// testNamesOfNobody: what is ours alone is asked of nobody.
func testNamesOfNobody(t *testing.T, c *cluster, s *nameServer, from task) {
	subnet := netip.MustParsePrefix(c.mustDocker("node1", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", "front"))
	unused := subnet.Addr()
	for range 3000 {
		unused = unused.Next()
	}
	for _, addr := range []string{unused.String(), "127.0.0.9"} {
		reverse, err := mdns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		c.absent(from, "-type", "PTR", addr)
		if n := s.times(reverse); n != 0 {
			t.Errorf("%s was asked of others %d times", reverse, n)
		}
	}
	if n := s.times("localhost.") + s.times("x.localhost.") + s.times("web."); n != 0 {
		t.Errorf("names of our own were asked of others %d times", n)
	}
}

// absent checks that a name does not exist.
func (c *cluster) absent(from task, args ...string) {
	c.t.Helper()
	if got, err := c.lookup(from, args...); err == nil || !strings.Contains(err.Error(), "NXDOMAIN") {
		c.t.Errorf("%v = %v, %v; want no such name", args, got, err)
	}
}
