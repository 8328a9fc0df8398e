package dns

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// freePort finds a port that is free over UDP and TCP on loopback.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddrPort(l.Addr().String())
		u, err := net.ListenPacket("udp", addr.String())
		l.Close()
		if err == nil {
			u.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

// run starts a server on loopback and waits until it answers.
func run(t *testing.T, cfg Config, state State) (*Server, string) {
	t.Helper()
	addr := freePort(t)
	s := New(cfg)
	s.Set(listening(state, addr.String()))
	start(t, s)
	waitAnswers(t, addr.String())
	return s, addr.String()
}

// listening is the state with the addresses to listen on.
func listening(s State, addrs ...string) State {
	s.Listen = nil
	for _, a := range addrs {
		s.Listen = append(s.Listen, netip.MustParseAddrPort(a))
	}
	return s
}

// start runs a server until the test, or stop, ends it.
func start(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// waitAnswers waits until a server answers over UDP and TCP.
func waitAnswers(t *testing.T, addr string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for _, network := range []string{"udp", "tcp"} {
		c := mdns.Client{Net: network, Timeout: 100 * time.Millisecond}
		for {
			m := new(mdns.Msg).SetQuestion("web.", mdns.TypeA)
			if _, _, err := c.Exchange(m, addr); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not answer over %s", addr, network)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func exchange(t *testing.T, network, addr, name string, qtype uint16) *mdns.Msg {
	t.Helper()
	c := mdns.Client{Net: network, Timeout: 8 * time.Second}
	r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, qtype), addr)
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return r
}

// upstream runs a name server on loopback.
func upstream(t *testing.T, h mdns.HandlerFunc) netip.AddrPort {
	t.Helper()
	addr := freePort(t)
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &mdns.Server{Addr: addr.String(), Net: network, Handler: h, NotifyStartedFunc: func() { close(started) }}
		done := make(chan error, 1)
		go func() { done <- s.ListenAndServe() }()
		select {
		case <-started:
		case err := <-done:
			t.Fatal(err)
		}
		t.Cleanup(func() {
			s.Shutdown()
			<-done
		})
	}
	return addr
}

func address(w mdns.ResponseWriter, r *mdns.Msg, ip string) {
	m := new(mdns.Msg).SetReply(r)
	m.Answer = []mdns.RR{&mdns.A{
		Hdr: mdns.RR_Header{Name: r.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60},
		A:   net.ParseIP(ip),
	}}
	w.WriteMsg(m)
}

func TestServesUDPAndTCP(t *testing.T) {
	s, addr := run(t, Config{}, sample())
	for _, network := range []string{"udp", "tcp"} {
		if got := describe(exchange(t, network, addr, "WEB.", mdns.TypeA)); got != "NOERROR [10.0.0.2]" {
			t.Errorf("%s: %s", network, got)
		}
	}
	if r := exchange(t, "udp", addr, "many.", mdns.TypeA); !r.Truncated || len(r.Answer) == 0 {
		t.Errorf("udp: %d answers, truncated %v", len(r.Answer), r.Truncated)
	}
	if r := exchange(t, "tcp", addr, "many.", mdns.TypeA); r.Truncated || len(r.Answer) != 100 {
		t.Errorf("tcp: %d answers, truncated %v", len(r.Answer), r.Truncated)
	}
	// Another source address is another client.
	c := mdns.Client{Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: time.Second}}
	r, _, err := c.Exchange(new(mdns.Msg).SetQuestion("web.", mdns.TypeA), addr)
	if err != nil || describe(r) != "NOERROR [10.0.1.4]" {
		t.Errorf("127.0.0.2: %v, %v", r, err)
	}
	s.Set(listening(State{}, addr))
	if got := describe(exchange(t, "udp", addr, "web.", mdns.TypeA)); got != "REFUSED []" {
		t.Errorf("after everything is gone: %s", got)
	}
}

// TestTCPKeepsTheConnection sends two queries at once, and then a broken one.
func TestTCPKeepsTheConnection(t *testing.T) {
	_, addr := run(t, Config{}, sample())
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	packet, err := new(mdns.Msg).SetQuestion("web.", mdns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	if _, err := conn.Write(append(append([]byte(nil), frame...), frame...)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r, err := (&mdns.Conn{Conn: conn}).ReadMsg(); err != nil || describe(r) != "NOERROR [10.0.0.2]" {
			t.Fatalf("%v, %v", r, err)
		}
	}
	if _, err := conn.Write([]byte{0, 3, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a query without a header was answered")
	}
}

func TestForwardsAndKeeps(t *testing.T) {
	var asked atomic.Int32
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		asked.Add(1)
		if lowerString(r.Question[0].Name) == "nosuch.test." {
			m := new(mdns.Msg).SetRcode(r, mdns.RcodeNameError)
			soa, _ := mdns.NewRR("test. 60 IN SOA a. b. 1 2 3 4 60")
			m.Ns = []mdns.RR{soa}
			w.WriteMsg(m)
			return
		}
		address(w, r, "192.0.2.7")
	})
	_, addr := run(t, Config{}, sample(up))
	for _, name := range []string{"example.test.", "EXAMPLE.test."} {
		for _, network := range []string{"udp", "tcp"} {
			r := exchange(t, network, addr, name, mdns.TypeA)
			if describe(r) != "NOERROR [192.0.2.7]" || r.Question[0].Name != name || r.Answer[0].Header().Name != name {
				t.Errorf("%s over %s: %v", name, network, r)
			}
		}
	}
	for range 3 {
		if r := exchange(t, "udp", addr, "nosuch.test.", mdns.TypeA); describe(r) != "NXDOMAIN []" || len(r.Ns) != 1 {
			t.Errorf("nosuch: %v", r)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the upstream was asked %d times for two names", n)
	}
}

func TestForwardFallsBackToTCP(t *testing.T) {
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			m := new(mdns.Msg).SetReply(r)
			m.Truncated = true
			w.WriteMsg(m)
			return
		}
		address(w, r, "192.0.2.8")
	})
	_, addr := run(t, Config{}, sample(up))
	if got := describe(exchange(t, "udp", addr, "big.test.", mdns.TypeA)); got != "NOERROR [192.0.2.8]" {
		t.Error(got)
	}
}

func TestForwardGoesPastBadUpstreams(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dead := netip.MustParseAddrPort(silent.LocalAddr().String())
	failing := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		w.WriteMsg(new(mdns.Msg).SetRcode(r, mdns.RcodeServerFailure))
	})
	good := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) { address(w, r, "192.0.2.9") })

	s, addr := run(t, Config{Timeout: 300 * time.Millisecond}, sample(dead, failing, good))
	begin := time.Now()
	if got := describe(exchange(t, "udp", addr, "a.test.", mdns.TypeA)); got != "NOERROR [192.0.2.9]" {
		t.Error(got)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	s.Set(listening(sample(dead, failing), addr))
	if got := describe(exchange(t, "udp", addr, "b.test.", mdns.TypeA)); got != "SERVFAIL []" {
		t.Error(got)
	}
	s.Set(listening(sample(netip.MustParseAddrPort(addr)), addr))
	if got := describe(exchange(t, "udp", addr, "loop.test.", mdns.TypeA)); got != "SERVFAIL []" {
		t.Errorf("asking itself: %s", got)
	}
}

func TestClientsForwardsAreBounded(t *testing.T) {
	release := make(chan struct{})
	up := upstream(t, func(w mdns.ResponseWriter, r *mdns.Msg) {
		<-release
		address(w, r, "192.0.2.7")
	})
	_, addr := run(t, Config{Forwards: 2, Timeout: 5 * time.Second}, sample(up))
	replies := make(chan *mdns.Msg, 3)
	for _, name := range []string{"a.test.", "b.test.", "c.test."} {
		go func() {
			c := mdns.Client{Timeout: 5 * time.Second}
			r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, mdns.TypeA), addr)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			replies <- r
		}()
	}
	if r := <-replies; r == nil || r.Rcode != mdns.RcodeServerFailure {
		t.Errorf("the third: %v", r)
	}
	if got := describe(exchange(t, "udp", addr, "web.", mdns.TypeA)); got != "NOERROR [10.0.0.2]" {
		t.Errorf("known names meanwhile: %s", got)
	}
	close(release)
	for range 2 {
		if r := <-replies; r == nil || r.Rcode != mdns.RcodeSuccess {
			t.Errorf("one within bounds: %v", r)
		}
	}
}

func TestListensBeforeTheAddressExists(t *testing.T) {
	ctx := context.Background()
	for _, addr := range []string{"192.0.2.53:0", "[2001:db8::53]:0"} {
		a := netip.MustParseAddrPort(addr)
		u, err := listenUDP(ctx, a)
		if err != nil {
			t.Errorf("udp %s: %v", addr, err)
			continue
		}
		u.Close()
		l, err := listenTCP(ctx, a)
		if err != nil {
			t.Errorf("tcp %s: %v", addr, err)
			continue
		}
		l.Close()
	}
}

func TestSystemUpstreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# comment\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver nonsense\nsearch x.test . y.test\noptions ndots:3\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := SystemUpstreams(path)
	if len(got) != 2 || got[0].String() != "192.0.2.1:53" || got[1].String() != "[2001:db8::1]:53" {
		t.Errorf("got %v", got)
	}
	if got := SystemSearch(path); !slices.Equal(got, []string{"x.test", "y.test"}) {
		t.Errorf("search %v", got)
	}
	if got := SystemSearch(path + ".missing"); got != nil {
		t.Errorf("no file: %v", got)
	}
	if got := SystemUpstreams(path + ".missing"); got != nil {
		t.Errorf("no file: %v", got)
	}
}
