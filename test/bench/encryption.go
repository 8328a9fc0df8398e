package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/wireguard"
	"github.com/meshd/meshd/test/lab"
)

func encryptionModes() []mode {
	const eight = 8
	return slices.Insert(netModes(), 1, mode{"stream", "Gbit/s, eight streams at once", 8e-9, eight})
}

// benchEncryption compares an encrypted network to clear ones and to a WireGuard device that has nothing of meshd.
func benchEncryption(ctx context.Context, l *lab.Lab, o netOptions) (err error) {
	b, err := newNetBench(ctx, l, o, encryptionModes())
	if err != nil {
		return err
	}
	raw, err := b.tunnel("node1", "node2")
	if err != nil {
		return fmt.Errorf("WireGuard between nodes: %w", err)
	}
	for _, addr := range []string{b.address["node2"], raw.addr} {
		stop := b.serveOn("node2", addr)
		defer func() { err = errors.Join(err, stop()) }()
	}
	plain, err := b.pair(ctx, "clear", "node2")
	if err != nil {
		return err
	}
	tunnelled, err := b.service(ctx, "tunnelled", tunnelOnly, "sample", "bench-serve")
	if err != nil {
		return err
	}
	encrypted, err := b.pair(ctx, "encrypted", "node2", store.OptionEncrypted)
	if err != nil {
		return err
	}
	rawNodes := "node to node, " + raw.kind
	ways := []way{
		{name: bareNodes, node: "node1", target: at(b.address["node2"], netPort)},
		{name: rawNodes, node: "node1", target: at(raw.addr, netPort), against: []string{bareNodes}},
		{name: acrossNodes, node: "node1", pid: plain.caller.pid, target: at(plain.far.addr, netPort), against: []string{bareNodes}},
		{name: byVXLAN, node: "node1", pid: plain.caller.pid, target: at(tunnelled.addr, netPort), against: []string{acrossNodes}},
		{
			name: "container to container, across nodes, encrypted", node: "node1", pid: encrypted.caller.pid, target: at(encrypted.far.addr, netPort),
			against: []string{rawNodes, acrossNodes, byVXLAN},
		},
	}
	results := map[string][]float64{}
	if err := b.measure(ctx, ways, results); err != nil {
		return err
	}
	b.print(ways, results)
	return nil
}

// pair is two containers on a network of their own.
type pair struct{ caller, far instance }

func (b *netBench) pair(ctx context.Context, name, far string, options ...string) (p pair, err error) {
	set := map[string]string{}
	for _, o := range options {
		set[o] = ""
	}
	if err := b.onNetwork(ctx, name, set); err != nil {
		return p, err
	}
	if p.far, err = b.service(ctx, name+"-far", far, "sample", "bench-serve"); err != nil {
		return p, err
	}
	p.caller, err = b.service(ctx, name+"-caller", "node1", "sleep")
	return p, err
}

const (
	rawName = "benchwg"
	rawPort = 7004
	// rawMTU is what meshd gives its own: 60 bytes less than the lab's links have.
	rawMTU = 1440
	// rawCommand makes this program one that makes an end of a tunnel on the node where it runs.
	rawCommand = "raw-wireguard"
)

// rawEnd is one end of a tunnel between two nodes, as one would make it by hand.
type rawEnd struct {
	Device wireguard.Device
	Far    netip.Addr // inside
}

// rawTunnel is where its far end is called, and whose WireGuard it is.
type rawTunnel struct{ addr, kind string }

// tunnel makes one; it goes with the lab.
func (b *netBench) tunnel(nodes ...string) (t rawTunnel, err error) {
	inside := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")} // nobody has them: RFC 5737
	var ends [2]rawEnd
	var keys [2]wireguard.Key
	for i := range ends {
		own, err := wireguard.OpenKeyring("", rawPort) // kept nowhere
		if err != nil {
			return t, err
		}
		if _, err := own.Follow(0, time.Now()); err != nil {
			return t, err
		}
		keys[i], ends[i] = own.Public()[0].Key, rawEnd{Device: own.Devices()[0], Far: inside[1-i]}
		ends[i].Device.Name, ends[i].Device.Addr = rawName, inside[i]
	}
	for i, e := range ends {
		outside, err := netip.ParseAddr(b.address[nodes[1-i]])
		if err != nil {
			return t, err
		}
		e.Device.Peers[keys[1-i]] = wireguard.Peer{Endpoint: netip.AddrPortFrom(outside, rawPort), Allowed: []netip.Addr{e.Far}}
		if t.kind, err = b.makeEnd(nodes[i], e); err != nil {
			return t, err
		}
	}
	t.addr = inside[1].String()
	return t, nil
}

func (b *netBench) makeEnd(node string, e rawEnd) (kind string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(self, rawCommand)
	var in, out, complaint bytes.Buffer
	if err := gob.NewEncoder(&in).Encode(e); err != nil {
		return "", err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &complaint
	if err := b.lab.Exec(node, cmd); err != nil {
		return "", fmt.Errorf("%s: %w: %s", node, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// makeRaw makes the end that standard input says, and tells whose WireGuard it is: the same as meshd's own on this kernel.
func makeRaw([]string) error {
	var e rawEnd
	if err := gob.NewDecoder(os.Stdin).Decode(&e); err != nil {
		return err
	}
	door, err := link.Open()
	if err != nil {
		return err
	}
	defer door.Close()
	kind := "the kernel's WireGuard"
	err = door.PutWireGuard(rawName, rawMTU)
	if errors.Is(err, link.ErrNoWireGuard) {
		kind = "wireguard-go"
		if err = wireguard.Start(rawName, rawMTU); err == nil {
			err = door.PutWireGuard(rawName, rawMTU) // up
		}
	}
	if err != nil {
		return err
	}
	wg, err := wireguard.Open()
	if err != nil {
		return err
	}
	defer wg.Close()
	if _, err := wg.Put(e.Device); err != nil {
		return err
	}
	// Not by door: its routes are meshd's.
	said, err := exec.Command("ip", "address", "add", e.Device.Addr.String(), "peer", e.Far.String(), "dev", rawName).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip address add: %w: %s", err, bytes.TrimSpace(said))
	}
	fmt.Println(kind)
	return nil
}
