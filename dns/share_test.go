package dns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestShares(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for _, tt := range []struct {
		waiting, room uint32
		a             int // of 20
	}{{0, 100, 20}, {49, 100, 20}, {50, 100, shareCrowded}, {74, 100, shareCrowded}, {75, 100, shareFull}, {200, 100, shareFull}, {1 << 31, 1 << 31, shareFull}} {
		var s shares
		for range 2 { // a new batch is a new share
			s.begin(tt.waiting, tt.room)
			got := 0
			for range 20 {
				if s.take(a) {
					got++
				}
			}
			if got != tt.a || !s.take(b) {
				t.Errorf("%d of %d: %d answers, want %d, and one for another client", tt.waiting, tt.room, got, tt.a)
			}
		}
	}
	var s shares
	s.begin(1, 1)
	for i := range batchSize {
		if !s.take(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})) {
			t.Errorf("client %d of a batch has no share", i)
		}
	}
}

// TestOneClientDoesNotStarveOthers: one has filled a socket before another asks.
func TestOneClientDoesNotStarveOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root may go beyond the system's limit of buffers")
	}
	greedy, modest := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.9")
	server, err := listenUDP(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	to := server.LocalAddr().(*net.UDPAddr)
	ask := func(from netip.Addr, times int) *net.UDPConn {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		packet, err := new(mdns.Msg).SetQuestion("web.", mdns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		for range times {
			if _, err := conn.Write(packet); err != nil {
				t.Fatal(err)
			}
		}
		return conn
	}
	const flood = 2000 // of some 2700 that fit
	ask(greedy, flood)
	waiting := ask(modest, 5)

	state := sample()
	state.Clients[greedy], state.Clients[modest] = Client{Zones: []string{"one"}}, Client{Zones: []string{"one"}}
	s := New(Config{})
	s.Set(state)
	done := make(chan error, 1)
	go func() { done <- s.answerUDP(t.Context(), server) }()
	waiting.SetDeadline(time.Now().Add(20 * time.Second))
	for i := range 5 {
		if _, err := (&mdns.Conn{Conn: waiting}).ReadMsg(); err != nil {
			t.Fatalf("after %d answers: %v", i, err)
		}
	}
	server.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	// The first batches were answered in part: half of the room was taken.
	if shed := s.Stats().Shed; shed < 100 || shed >= flood {
		t.Errorf("%d of %d queries of the greedy one were dropped", shed, flood)
	}
}
