package overlay

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

// putForwarding puts the objects of DriverBridge.
func (k *linuxKernel) putForwarding(op op) error {
	switch o := op.object.(type) {
	case edgeObject:
		return k.putEdge(op.value.(nft.Edge))
	case speakerObject:
		return nft.PutSpeaker(o.speaker)
	case silentObject:
		return k.door.Silence(o.id, op.value.(datapath.MAC))
	case hopObject:
		return k.door.PutHop(o.key, op.value.(link.Hop))
	case ruleObject:
		return k.door.PutRule(o.rule)
	case arriveObject:
		return nft.PutArrive(op.value.(int))
	case nodeObject:
		return nft.PutEdgePeer(o.peer)
	default:
		return fmt.Errorf("overlay: cannot put %T", o)
	}
}

// removeForwarding removes them.
func (k *linuxKernel) removeForwarding(op op) error {
	switch o := op.object.(type) {
	case edgeObject:
		return nft.DeleteEdge()
	case speakerObject:
		return nft.DeleteSpeaker(o.speaker)
	case silentObject:
		return nil // it went with the interface, or harms nobody
	case hopObject:
		return k.door.DeleteHop(o.key)
	case ruleObject:
		return k.door.DeleteRule(o.rule)
	case arriveObject:
		return nft.DeleteArrive()
	case nodeObject:
		return nft.DeleteEdgePeer(o.peer)
	default:
		return fmt.Errorf("overlay: cannot remove %T", o)
	}
}

// putEdge keeps what the rules before these have counted.
func (k *linuxKernel) putEdge(e nft.Edge) error {
	_, counted, _, err := nft.EdgeOf()
	if err != nil {
		return err
	}
	if err := nft.PutEdge(e); err != nil {
		return err
	}
	for reason, n := range counted {
		k.dropped[reason] += n
	}
	return nil
}

// forwardDrops counts what the rules dropped.
func (k *linuxKernel) forwardDrops() (map[string]uint64, error) {
	_, counted, _, err := nft.EdgeOf()
	out := maps.Clone(k.dropped)
	for reason, n := range counted {
		out[reason] += n
	}
	return out, err
}

// readForwarding reads the objects of DriverBridge; another driver removes what it finds of them.
func (k *linuxKernel) readForwarding(held objects) (err error) {
	before := len(held)
	defer func() { k.leftovers = k.path == nil || err != nil || len(held) > before }()
	e, _, there, err := nft.EdgeOf()
	if err != nil {
		return err
	}
	if there {
		held[edgeObject{}] = e
	}
	speakers, serr := nft.Speakers()
	for s := range speakers {
		held[speakerObject{s}] = present{}
	}
	peers, perr := nft.EdgePeers(func(a netip.Addr) [6]byte { return nodeMAC(a) })
	for p := range peers {
		held[nodeObject{p}] = present{}
	}
	hops, herr := k.door.Hops()
	for key, h := range hops {
		held[hopObject{key}] = h
	}
	rules, rerr := k.door.Rules()
	for r := range rules {
		held[ruleObject{r}] = present{}
	}
	index, aerr := nft.ArriveOf()
	if index != 0 {
		held[arriveObject{}] = index
	}
	return errors.Join(serr, perr, herr, rerr, aerr)
}

// forgetPrograms takes away what DriverEBPF left: unpinned, programs and maps end.
func (k *linuxKernel) forgetPrograms() error {
	if err := datapath.Forget(bpfDir(k.cfg.RunDir)); err != nil {
		return err
	}
	devices, err := k.door.Devices()
	if err != nil {
		return err
	}
	for index := range devices {
		name, _, err := k.door.Filter(index)
		if err == nil && name != "" {
			err = k.door.DeleteFilter(index)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
