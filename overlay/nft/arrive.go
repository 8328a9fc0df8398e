package nft

import (
	"fmt"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// ArriveTable lets the kernel take every frame from the tunnel as sent to it: with eBPF nodes
// put no MAC address into frames that would mean this one. Its one chain stands on the device.
const ArriveTable = "meshd_arrive"

const (
	arriveChain = "ingress"
	packetHost  = 0 // PACKET_HOST of linux/if_packet.h
)

// PutArrive puts the chain on the tunnel device, which has that index.
func PutArrive(ifindex int) error {
	return change("table "+ArriveTable, func(c *nftables.Conn) error {
		t, err := remove(c, ArriveTable, nftables.TableFamilyNetdev)
		if err != nil {
			return err
		}
		c.AddTable(t)
		chain := c.AddChain(&nftables.Chain{
			Name: arriveChain, Table: t, Type: nftables.ChainTypeFilter, Device: tunnelDevice,
			Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{
			Table: t, Chain: chain,
			// meta pkttype set host
			Exprs: []expr.Any{
				&expr.Immediate{Register: register, Data: []byte{packetHost}},
				&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: register, SourceRegister: true},
			},
			UserData: userdata.AppendString(nil, userdata.TypeComment, strconv.Itoa(ifindex)),
		})
		return nil
	})
}

// DeleteArrive removes it; none is no error.
func DeleteArrive() error {
	return change("table "+ArriveTable, func(c *nftables.Conn) error {
		_, err := remove(c, ArriveTable, nftables.TableFamilyNetdev)
		return err
	})
}

// ArriveOf gives the index of the device that PutArrive was called for; zero: nothing is there.
func ArriveOf() (int, error) {
	c, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return 0, fmt.Errorf("nftables: list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != ArriveTable || ch.Hooknum == nil {
			continue
		}
		rules, _ := c.GetRules(ch.Table, ch)
		if len(rules) == 1 {
			comment, _ := userdata.GetString(rules[0].UserData, userdata.TypeComment)
			index, _ := strconv.Atoi(comment) // of somebody else's rule: zero
			return index, nil
		}
	}
	return 0, nil
}
