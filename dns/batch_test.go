package dns

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// TestBursts: clients that send far more at once than a batch holds get every
// answer, and each its own.
func TestBursts(t *testing.T) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		t.Run(loopback, func(t *testing.T) {
			state := sample()
			state.Clients[netip.MustParseAddr(loopback)] = Client{Zones: []string{"one"}}
			port := freePort(t).Port()
			addr := netip.AddrPortFrom(netip.MustParseAddr(loopback), port).String()
			s := New(Config{})
			s.Set(listening(state, addr))
			start(t, s)
			waitAnswers(t, addr)
			for range 3 {
				burst(t, addr, 100)
			}
		})
	}
}

// TestQueriesWait: what comes while the resolver is busy is not lost.
func TestQueriesWait(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root may go beyond the system's limit of buffers")
	}
	server, err := listenUDP(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const sent = 1000
	for range sent {
		if _, err := client.Write(make([]byte, 40)); err != nil {
			t.Fatal(err)
		}
	}
	server.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := newBatch(server)
	if err != nil {
		t.Fatal(err)
	}
	for got := 0; got < sent; {
		n, err := b.read()
		if err != nil {
			t.Fatalf("after %d of %d: %v", got, sent, err)
		}
		got += n
	}
}

// burst sends queries of different kinds and checks that all answers come, in any order.
func burst(t *testing.T, addr string, n int) {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	wants := []struct {
		name string
		want string
	}{{"web.", "NOERROR [10.0.0.2]"}, {"idle.", "NOERROR []"}, {"web.1.abcdefg.", "NOERROR [10.0.0.11]"}, {"nosuch.", "NXDOMAIN []"}}
	for i := range n {
		m := new(mdns.Msg).SetQuestion(wants[i%len(wants)].name, mdns.TypeA)
		m.Id = uint16(i)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(make([]byte, 5)); err != nil { // is not answered
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	for range n {
		r, err := (&mdns.Conn{Conn: conn}).ReadMsg()
		if err != nil {
			t.Fatalf("after %d answers: %v", len(seen), err)
		}
		w := wants[int(r.Id)%len(wants)]
		if seen[r.Id] || describe(r) != w.want || r.Question[0].Name != w.name {
			t.Fatalf("answer %d to %s: %s", r.Id, w.name, describe(r))
		}
		seen[r.Id] = true
	}
}

// TestBatchesDoNotAllocate: read, answer, send.
func TestBatchesDoNotAllocate(t *testing.T) {
	server, err := listenUDP(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deadline := time.Now().Add(20 * time.Second)
	server.SetDeadline(deadline)
	client.SetDeadline(deadline)
	packet, err := new(mdns.Msg).SetQuestion("web.", mdns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBatch(server)
	if err != nil {
		t.Fatal(err)
	}
	tab, in := compile(sample(), time.Second), make([]byte, plainSize)
	var q query
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := client.Write(packet); err != nil {
			t.Fatal(err)
		}
		n, err := b.read()
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		got, from := b.query(0)
		answer, _, _ := tab.answer(&q, b.buffer(0), got, from.Addr(), false)
		b.add(0, answer)
		if err := b.flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Read(in); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for a query", allocs)
	}
}
