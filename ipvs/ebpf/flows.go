package ebpf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// The connections of bpf/maps.h.
type (
	flowKey struct {
		Src, Dst         addr
		Sport, Dport     port
		Proto, Direction uint8
		_                uint16
		VNI              uint32
	}
	flow struct {
		Src, Dst, Entry           addr
		Sport, Dport, BackendPort port
		Flags                     uint16
		Ifindex, Service, Seen    uint32
	}
)

// What flows.go reads of enum direction and of the flags.
const (
	forwardFlow   = 0
	flowIngress   = 1
	flowFromLo    = 2
	flowContainer = 4
	flowClosing   = 8
	flowAccepted  = 16
)

// Origin says where a connection came from.
type Origin string

// The origins.
const (
	OriginContainer Origin = "container" // of this node
	OriginNode      Origin = "node"      // a process of this node
	OriginOutside   Origin = "outside"   // to a published port
)

// Flow is a connection that this node leads to a backend.
type Flow struct {
	// Key and Service are those of what was asked for; Service may be empty for
	// one that was removed meanwhile.
	Key     ipvs.Key
	Service string
	// Protocol of the connection.
	Protocol ipvs.Protocol
	Client   netip.AddrPort
	// To is what the client asked for, Backend who answers.
	To, Backend netip.AddrPort
	Origin      Origin
	// Idle is how long ago its last packet was seen, whole seconds.
	Idle time.Duration
	// Closing: one side said good-bye.
	Closing bool
}

// Flows reads the connections that this node leads, in order of service and
// client. Entries are remembered until their room is needed, so that many an old
// one may be idle or closing.
func (b *Balancer) Flows() ([]Flow, error) {
	keys := map[uint32]ipvs.Key{}
	b.mu.Lock()
	names, flows := b.names, b.objects.Flows
	var err error
	for k, v := range all[serviceKey, service](b.objects.Services, &err) {
		keys[v.ID] = k.key()
	}
	b.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("load balancer services: %w", err)
	}
	now, err := secondsSinceBoot()
	if err != nil {
		return nil, err
	}
	var out []Flow
	for k, f := range all[flowKey, flow](flows, &err) {
		if k.Direction == forwardFlow && f.Service != 0 {
			key := keys[f.Service]
			out = append(out, flowOf(k, f, key, names[key], now))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load balancer connections: %w", err)
	}
	slices.SortFunc(out, compareFlows)
	return out, nil
}

// secondsSinceBoot is the programs' clock.
func secondsSinceBoot() (int64, error) {
	var clock unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock); err != nil {
		return 0, fmt.Errorf("time since boot: %w", err)
	}
	return clock.Sec, nil
}

func flowOf(k flowKey, f flow, key ipvs.Key, name string, now int64) Flow {
	out := Flow{
		Key: key, Service: name, Protocol: ipvs.Protocol(k.Proto),
		Client:  netip.AddrPortFrom(k.Src.netip(), k.Sport.number()),
		To:      netip.AddrPortFrom(k.Dst.netip(), k.Dport.number()),
		Backend: netip.AddrPortFrom(f.Dst.netip(), f.Dport.number()),
		Origin:  OriginContainer,
		Idle:    time.Duration(max(now-int64(f.Seen), 0)) * time.Second,
		Closing: f.Flags&flowClosing != 0,
	}
	if out.To == out.Backend && key.VIP.IsValid() {
		out.To = netip.AddrPortFrom(key.VIP, out.To.Port()) // its socket was led
	}
	switch {
	case f.Flags&flowFromLo != 0:
		out.Origin = OriginNode
	case f.Flags&flowIngress != 0 && f.Flags&flowContainer == 0:
		out.Origin = OriginOutside
	}
	return out
}

func compareFlows(a, b Flow) int {
	for _, c := range []int{strings.Compare(a.Service, b.Service), a.Client.Compare(b.Client), a.To.Compare(b.To), int(a.Protocol) - int(b.Protocol)} {
		if c != 0 {
			return c
		}
	}
	return 0
}
