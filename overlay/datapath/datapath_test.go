package datapath

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// loaded gives a data path in a bpffs of its own.
func loaded(t *testing.T) (*Datapath, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for eBPF")
	}
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := Mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	d, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d, dir
}

func TestProgramsPassTheVerifierAndAreTakenOver(t *testing.T) {
	d, dir := loaded(t)
	key := EndpointKey{VNI: 4097, Addr: AddrOf(netip.MustParseAddr("10.0.1.2"))}
	want := RemoteEndpoint(netip.MustParseAddr("192.0.2.1"))
	if err := d.Endpoints.Put(key, want); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	all, err := again.Endpoints.All()
	if err != nil {
		t.Fatal(err)
	}
	if all[key] != want {
		t.Errorf("after a restart the table holds %v", all)
	}
}

func TestLayoutsMatchTheProgramsMaps(t *testing.T) {
	spec, err := loadOverlay()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		key, value any
	}{
		{"mesh_ifaces", uint32(0), Iface{}},
		{"mesh_endpoints", EndpointKey{}, Endpoint{}},
		{"mesh_subnets", SubnetKey{}, uint32(0)},
		{"mesh_peers", Addr{}, uint32(0)},
		{"mesh_direct", Addr{}, uint32(0)},
		{"mesh_switches", uint32(0), uint32(0)},
		{"mesh_config", uint32(0), Settings{}},
		{"mesh_encrypted", uint32(0), uint32(0)},
		{"mesh_ciphers", Addr{}, Cipher{}},
		{"mesh_inside", Addr{}, Addr{}},
		{"mesh_self", uint32(0), Self{}},
	} {
		m := spec.Maps[c.name]
		if got := binary.Size(c.key); got != int(m.KeySize) {
			t.Errorf("%s: key has %d bytes, the program's %d", c.name, got, m.KeySize)
		}
		if got := binary.Size(c.value); got != int(m.ValueSize) {
			t.Errorf("%s: value has %d bytes, the program's %d", c.name, got, m.ValueSize)
		}
	}
	if got := spec.Maps["mesh_drops"].MaxEntries; int(got) != len(dropReasons()) {
		t.Errorf("%d drop reasons have names, the programs count %d", len(dropReasons()), got)
	}
}

func TestSubnetsMatchByLongestPrefix(t *testing.T) {
	d, _ := loaded(t)
	defer d.Close()
	for prefix, vni := range map[string]uint32{"10.0.1.0/24": 1, "10.255.0.0/16": 2, "fd00::/64": 3} {
		if err := d.Subnets.Put(SubnetKeyOf(netip.MustParsePrefix(prefix)), vni); err != nil {
			t.Fatal(err)
		}
	}
	all, err := d.Subnets.All()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Errorf("read back %v", all)
	}
	if err := d.Subnets.Delete(SubnetKeyOf(netip.MustParsePrefix("10.9.0.0/16"))); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
}

func TestDropsHaveNames(t *testing.T) {
	d, _ := loaded(t)
	defer d.Close()
	drops, err := d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := drops["forged-address"]; !ok || n != 0 {
		t.Errorf("fresh counters: %v", drops)
	}
}
