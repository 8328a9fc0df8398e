package wireguard

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/meshd/meshd/overlay/link"
)

// slots is how many devices there can be side by side.
const slots = 2

// DeviceName is that of the device of an epoch's key.
func DeviceName(epoch uint64) string { return fmt.Sprintf("%s%d", link.WireGuardPrefix, epoch%slots) }

// Device is the desired state of one device.
type Device struct {
	Name    string
	Epoch   uint64
	Private Key
	// Port is the UDP port that it listens on.
	Port  uint16
	Peers map[Key]Peer
	// Addr is the node's own inside of it; none where nothing is for the node itself.
	Addr netip.Addr
}

// Peer is another node as a device knows it.
type Peer struct {
	// Endpoint is where the node says that it is. It is used until the node is heard
	// from elsewhere, as one behind address translation is, and again when it is not
	// heard from any more.
	Endpoint netip.AddrPort
	// Allowed are the addresses that it may send from, and is sent to for.
	Allowed []netip.Addr
}

// Status is how it stands with a peer.
type Status struct {
	// Endpoint is where packets to the peer go.
	Endpoint netip.AddrPort
	// Handshake is when the last one was; zero: never.
	Handshake time.Time
	// Received and Sent are in bytes, of encrypted packets.
	Received, Sent uint64
}

// Silent says that a peer was not heard from for so long that its session has ended:
// a session lives for 180 seconds (REJECT_AFTER_TIME in the WireGuard paper, section
// 6.2), and there is a new one every two minutes because of the keepalives.
func (s Status) Silent(now time.Time) bool { return now.Sub(s.Handshake) > 180*time.Second }

// keepalive is how often a peer gets a packet at least: address translators forget a
// UDP flow after 30 seconds (RFC 4787 asks for two minutes), and who is not heard from
// is to be noticed before anybody has something to say to it.
const keepalive = 25 * time.Second
