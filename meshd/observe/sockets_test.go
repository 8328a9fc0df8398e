package observe

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

// Sockets of this very process are found, with its name.
func TestSocketsOfThisProcess(t *testing.T) {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	found, err := Sockets()
	if err != nil {
		t.Fatal(err)
	}
	for protocol, addr := range map[ipvs.Protocol]net.Addr{ipvs.TCP: tcp.Addr(), ipvs.UDP: udp.LocalAddr()} {
		i := slices.IndexFunc(found, func(s Socket) bool { return s.Protocol == protocol && s.Addr.String() == addr.String() })
		if i < 0 {
			t.Errorf("%s %s is not among %v", addr.Network(), addr, found)
			continue
		}
		if who := ProcessOf(found[i]); !strings.Contains(who, fmt.Sprintf("(process %d)", os.Getpid())) {
			t.Errorf("%s belongs to %s, want this process", addr, who)
		}
	}
}

func TestReadSockets(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   2: 000080FE00000000FF005450B6AD1DFE:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 103 1
`
	got, err := readSockets(strings.NewReader(table), ipvs.TCP)
	want := []Socket{{ipvs.TCP, netip.MustParseAddrPort("127.0.0.1:8080"), "101"}, {ipvs.TCP, netip.MustParseAddrPort("[fe80::5054:ff:fe1d:adb6]:80"), "103"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	for _, bad := range []string{"0 xx:1 0 0A 0 0 0 0 0 0", "0 0100007F:x 0 0A 0 0 0 0 0 0", "0 0100:1 0 0A 0 0 0 0 0 0"} {
		if _, err := readSockets(strings.NewReader(bad), ipvs.TCP); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestClashes(t *testing.T) {
	const mesh = 4096
	state := ipvs.State{
		MeshVNI: mesh, NodeAddrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Services: []ipvs.Service{
			{Key: ipvs.Key{VNI: mesh, Port: 80, Protocol: ipvs.TCP}, Name: "web"},
			{Key: ipvs.Key{VNI: mesh, VIP: netip.IPv6Unspecified(), Port: 81, Protocol: ipvs.TCP}, Name: "six"},
			{Key: ipvs.Key{VNI: 5000, VIP: netip.MustParseAddr("10.0.0.5")}, Name: "vip"},
		},
	}
	for socket, want := range map[string]string{
		"0.0.0.0:80": "web", "[::]:80": "web", "127.0.0.1:80": "web", "192.0.2.1:80": "web",
		"192.0.2.9:80": "", "0.0.0.0:82": "", "[2001:db8::1]:80": "",
		"[::]:81": "six", "[2001:db8::1]:81": "six", "192.0.2.1:81": "",
	} {
		got := ""
		for _, c := range Clashes(state, []Socket{{Protocol: ipvs.TCP, Addr: netip.MustParseAddrPort(socket), inode: "none"}}) {
			got += c.Service
		}
		if got != want {
			t.Errorf("%s clashes with %q, want %q", socket, got, want)
		}
	}
	if got := Clashes(state, []Socket{{Protocol: ipvs.UDP, Addr: netip.MustParseAddrPort("0.0.0.0:80")}}); len(got) != 0 {
		t.Errorf("UDP clashes with TCP: %v", got)
	}
}
