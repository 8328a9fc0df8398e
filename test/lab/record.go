package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// ErrNotExist says that there is no lab of that name.
var ErrNotExist = errors.New("no such lab")

// record is what lab.json holds: enough to use the lab, and to remove it.
type record struct {
	Name   string       `json:"name"`
	Boot   string       `json:"boot"` // the kernel's boot ID: process IDs of another boot mean nothing
	Subnet netip.Prefix `json:"subnet"`
	// Subnet6 follows from Subnet; invalid where the kernel has no IPv6.
	Subnet6 netip.Prefix `json:"subnet6,omitzero"`
	// IPv6Only: the machines have no IPv4 addresses.
	IPv6Only bool   `json:"ipv6Only,omitempty"`
	Meshd    string `json:"meshd"` // path of the daemon
	// EngineBridge is Options.EngineBridge.
	EngineBridge bool         `json:"engineBridge,omitempty"`
	EngineSwarm  bool         `json:"engineSwarm,omitempty"`
	Nodes        []nodeRecord `json:"nodes"`
}

type nodeRecord struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	// Address6 is the IPv6 address beside it, if any.
	Address6 netip.Addr `json:"address6,omitzero"`
	Manager  bool       `json:"manager"`
	Init     process    `json:"init"` // zero when the node does not run
	// Meshd is the path of the daemon if it is another than record's.
	Meshd string `json:"meshd,omitempty"`
}

// addresses are those of the machine with the given number, that of nodeRecord.Address first.
func (r record) addresses(number int) []netip.Prefix {
	var out []netip.Prefix
	if !r.IPv6Only {
		out = append(out, netip.PrefixFrom(host(r.Subnet, number), r.Subnet.Bits()))
	}
	if r.Subnet6.IsValid() {
		out = append(out, netip.PrefixFrom(host(r.Subnet6, number), r.Subnet6.Bits()))
	}
	return out
}

// number of a machine, by which its addresses are made.
func (r record) number(machine string) int {
	switch machine {
	case hub:
		return hubHost
	case Client:
		return clientHost
	}
	return 1 + slices.IndexFunc(r.Nodes, func(n nodeRecord) bool { return n.Name == machine })
}

// namespaces lists the nodes and the two extra machines of the lab.
func (r record) namespaces() []string {
	names := []string{hub, Client}
	for _, n := range r.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func (r record) node(name string) (nodeRecord, error) {
	i := slices.IndexFunc(r.Nodes, func(n nodeRecord) bool { return n.Name == name })
	if i < 0 {
		return nodeRecord{}, fmt.Errorf("lab %s has no node %q (it has node1 to node%d)", r.Name, name, len(r.Nodes))
	}
	return r.Nodes[i], nil
}

// readRecord fails with ErrNotExist if the lab is not there.
func readRecord(name string) (record, error) {
	raw, err := os.ReadFile(recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, fmt.Errorf("%w: %s (meshctl lab up --name %s makes one)", ErrNotExist, name, name)
	}
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return record{}, fmt.Errorf("%s: %w", recordPath(name), err)
	}
	return r, nil
}

func writeRecord(r record) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := recordPath(r.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	return renameio.WriteFile(path, append(raw, '\n'), 0o644)
}

// updateNode changes one node's record on disk under the machine-wide lock.
func updateNode(lab, node string, change func(*nodeRecord)) error {
	unlock, err := lockAll()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := readRecord(lab)
	if err != nil {
		return err
	}
	for i := range r.Nodes {
		if r.Nodes[i].Name == node {
			change(&r.Nodes[i])
		}
	}
	return writeRecord(r)
}

// lockAll serialises changes of records and the choice of subnets between all lab commands of the machine.
func lockAll() (unlock func(), err error) {
	if err := os.MkdirAll(stateRoot, 0o711); err != nil {
		return nil, err
	}
	dir, err := os.Open(stateRoot)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", stateRoot, err)
	}
	return func() { dir.Close() }, nil
}

// labNames lists the labs that have a record.
func labNames() ([]string, error) {
	found, err := filepath.Glob(recordPath("*"))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(found))
	for _, path := range found {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	return names, nil
}

func nodeName(i int) string { return "node" + strconv.Itoa(i) }

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
