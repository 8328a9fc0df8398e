package dns

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// free says whether nobody else has the address, over UDP and TCP.
func free(addr string) bool {
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	u.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// sockets are the inodes of the unconnected UDP and listening TCP sockets of an
// IPv4 address (proc(5), /proc/net/tcp).
func sockets(t *testing.T, addr string) []string {
	t.Helper()
	a := netip.MustParseAddrPort(addr)
	ip := a.Addr().As4()
	local := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], a.Port())
	var out []string
	for network, state := range map[string]string{"udp": "07", "tcp": "0A"} {
		data, err := os.ReadFile("/proc/self/net/" + network)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 9 && f[1] == local && f[3] == state {
				out = append(out, network+" "+f[9])
			}
		}
	}
	slices.Sort(out)
	return out
}

// later asks in the background; the answer, described, comes on the channel.
func later(network, addr, name string) <-chan string {
	out := make(chan string, 1)
	go func() {
		c := mdns.Client{Net: network, Timeout: 8 * time.Second}
		r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, mdns.TypeA), addr)
		if err != nil {
			out <- err.Error()
			return
		}
		out <- describe(r)
	}()
	return out
}

func TestAddressAddedWhileRunning(t *testing.T) {
	s, first := run(t, Config{}, sample())
	second := freePort(t).String()
	before := sockets(t, first)
	if len(before) < 2 {
		t.Fatalf("sockets of %s: %q", first, before)
	}
	s.Set(listening(sample(), second, first, second, "[::ffff:"+strings.Replace(second, ":", "]:", 1)))
	waitAnswers(t, second)
	for _, addr := range []string{first, second} {
		if got := describe(exchange(t, "udp", addr, "web.", mdns.TypeA)); got != "NOERROR [10.0.0.2]" {
			t.Errorf("%s: %s", addr, got)
		}
	}
	if after := sockets(t, first); !slices.Equal(before, after) {
		t.Errorf("the sockets that stay were %q, are %q", before, after)
	}
	// However often it is listed, it is listened on once.
	eventually(t, "as many sockets as the first", func() bool { return len(sockets(t, second)) == len(before) })
}

func TestAddressRemovedWhileRunning(t *testing.T) {
	s, stays := run(t, Config{}, sample())
	goes := freePort(t).String()
	s.Set(listening(sample(), stays, goes))
	waitAnswers(t, goes)
	conn, err := net.Dial("tcp", goes)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := sockets(t, stays)

	s.Set(listening(sample(), stays))
	eventually(t, "the address is free", func() bool { return free(goes) })
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a TCP client of the address that is gone: %v", err)
	}
	if after := sockets(t, stays); !slices.Equal(before, after) {
		t.Errorf("the sockets that stay were %q, are %q", before, after)
	}

	s.Set(listening(sample(), stays, goes))
	waitAnswers(t, goes)
	s.Set(State{})
	eventually(t, "no address is listened on", func() bool { return free(stays) && free(goes) })
}

// TestQueriesSurviveOtherAddresses has queries wait for an upstream while another
// address, whose client asked the same first, goes away.
func TestQueriesSurviveOtherAddresses(t *testing.T) {
	asked, released := make(chan struct{}, 10), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	defer release()
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		asked <- struct{}{}
		<-released
		address(w, r, "192.0.2.7")
	})
	s, stays := run(t, Config{Timeout: 5 * time.Second}, sample(up))
	goes := freePort(t).String()
	s.Set(listening(sample(up), stays, goes))
	waitAnswers(t, goes)

	first, err := mdns.DialTimeout("udp", goes, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := first.WriteMsg(new(mdns.Msg).SetQuestion("same.test.", mdns.TypeA)); err != nil {
		t.Fatal(err)
	}
	<-asked
	waiting := map[string]<-chan string{}
	for _, network := range []string{"udp", "tcp"} {
		for _, name := range []string{"same.test.", network + ".test."} {
			waiting[name+" over "+network] = later(network, stays, name)
		}
	}
	eventually(t, "all UDP queries are under way", func() bool {
		s.forwards.mu.Lock()
		defer s.forwards.mu.Unlock()
		return s.forwards.busy[netip.MustParseAddr("127.0.0.1")] == 3
	})
	for range 10 {
		s.Set(listening(sample(up), stays, goes))
		s.Set(listening(sample(up), stays))
	}
	eventually(t, "the address is free", func() bool { return free(goes) })
	release()
	for what, answer := range waiting {
		if got := <-answer; got != "NOERROR [192.0.2.7]" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestNoQueryIsLostWhileAddressesChange asks over one address, UDP and a single TCP
// connection, while others come and go at random.
func TestNoQueryIsLostWhileAddressesChange(t *testing.T) {
	s, stays := run(t, Config{}, sample())
	before := sockets(t, stays)
	others := []string{freePort(t).String(), freePort(t).String(), freePort(t).String()}
	conns := map[string]*mdns.Conn{}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := mdns.DialTimeout(network, stays, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[network] = conn
	}
	random := rand.New(rand.NewPCG(1, 2))
	var list []string
	for i := range 300 {
		list = []string{stays}
		for _, o := range others {
			if random.IntN(2) == 0 {
				list = append(list, o)
			}
		}
		random.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
		s.Set(listening(sample(), list...))
		for network, conn := range conns {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			m := new(mdns.Msg).SetQuestion("web.", mdns.TypeA)
			if err := conn.WriteMsg(m); err != nil {
				t.Fatalf("change %d, %s: %v", i, network, err)
			}
			if r, err := conn.ReadMsg(); err != nil || r.Id != m.Id || describe(r) != "NOERROR [10.0.0.2]" {
				t.Fatalf("change %d, %s: %v, %v", i, network, r, err)
			}
		}
	}
	for _, o := range others {
		eventually(t, o+" is as was said last", func() bool {
			return (len(sockets(t, o)) == len(before)) == slices.Contains(list, o) && (len(sockets(t, o)) == 0) != slices.Contains(list, o)
		})
	}
	if after := sockets(t, stays); !slices.Equal(before, after) {
		t.Errorf("the sockets that stay were %q, are %q", before, after)
	}
}

func TestSetBeforeRun(t *testing.T) {
	early, last := freePort(t).String(), freePort(t).String()
	s := New(Config{})
	s.Set(listening(sample(), early))
	s.Set(listening(sample(), last))
	if !free(early) || !free(last) {
		t.Error("listens before Run")
	}
	stop := start(t, s)
	waitAnswers(t, last)
	if !free(early) {
		t.Error("listens on what was taken back before Run")
	}
	stop()
	if !free(last) {
		t.Error("listens after Run")
	}
	s.Set(listening(sample(), early))
	if !free(early) {
		t.Error("listens after Run on what was said later")
	}
}

func TestSetAfterRun(t *testing.T) {
	addr := freePort(t).String()
	s := New(Config{})
	start(t, s)
	eventually(t, "Run waits for a Set other than New's", func() bool { return len(s.changed) == 0 })
	s.Set(listening(sample(), addr))
	waitAnswers(t, addr)
}

// TestSelfFollows: what was once an own address is an upstream like others later.
func TestSelfFollows(t *testing.T) {
	s := New(Config{})
	a, b := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")
	for _, own := range []netip.AddrPort{a, b} {
		s.Set(State{Listen: []netip.AddrPort{own}})
		for _, u := range []netip.AddrPort{a, b} {
			mapped := netip.AddrPortFrom(netip.AddrFrom16(u.Addr().As16()), u.Port())
			if s.fwd.isSelf(u) != (u == own) || s.fwd.isSelf(mapped) != (u == own) {
				t.Errorf("listening on %s: is %s self? %v", own, u, s.fwd.isSelf(u))
			}
		}
	}
}
