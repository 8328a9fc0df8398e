package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	lvs "github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// A connection lives as long as its two ends want: IPVS' usual 15 minutes of silence end connections that are well. 20 days is what fits into
// the kernel's count at 1,000 ticks a second. Datagrams have no end, and each new port of a client costs an entry for as long.
func timeouts() lvs.Config {
	return lvs.Config{TimeoutTCP: 20 * 24 * time.Hour, TimeoutTCPFin: time.Minute, TimeoutUDP: 5 * time.Minute}
}

// switches are those of IPVS, /proc/sys/net/ipv4/vs, that are not as we need them; older kernels lack the last.
func switches() map[string]string {
	return map[string]string{
		"conn_reuse_mode":           "1", // a port that is used anew may go to another backend
		"expire_nodest_conn":        "1", // what belongs to a backend that is gone may not wait for it
		"expire_quiescent_template": "1", // nor may affinity for one that drains
		"run_estimation":            "0", // rates of each backend in each container: nobody looks at them
	}
}

// space is the network namespace of the calling thread.
type space struct {
	ipvs *lvs.Handle
	// marks are those of the VIPs, as our nftables table has them.
	marks map[netip.Addr]uint32
	// whole: the table is as putTable makes it.
	whole bool
	held  map[key]service
	// strays are services that belong to no VIP of ours.
	strays []*lvs.Service
	// settings: timeouts and switches are ours.
	settings bool
}

// openSpace reads what the namespace holds. Where our table is gone the services are known by the marks that are remembered, so that
// connections outlive it; nil: none are.
func openSpace(remembered map[netip.Addr]uint32) (*space, error) {
	h, err := lvs.New("")
	if err != nil {
		return nil, fmt.Errorf("IPVS: %w", err)
	}
	s := &space{ipvs: h}
	if err := s.read(remembered); err != nil {
		h.Close()
		return nil, err
	}
	return s, nil
}

func (s *space) close() { s.ipvs.Close() }

// Marks: ours begin with these bits; the lowest one tells UDP from TCP.
const (
	markBase = 0x6d000000
	markUDP  = 1
)

func (s *space) read(remembered map[netip.Addr]uint32) (err error) {
	if s.marks, s.whole, err = readTable(); err != nil {
		return err
	}
	if s.marks == nil {
		s.marks = remembered
	}
	vips := map[uint32]netip.Addr{}
	for vip, mark := range s.marks {
		vips[mark] = vip
	}
	services, err := s.ipvs.GetServices()
	if err != nil {
		return fmt.Errorf("list IPVS services: %w", err)
	}
	s.held = map[key]service{}
	for _, svc := range services {
		vip, ok := vips[svc.FWMark&^markUDP]
		if !ok || svc.FWMark == 0 || family(vip) != svc.AddressFamily {
			s.strays = append(s.strays, svc)
			continue
		}
		backends, err := s.ipvs.GetDestinations(svc)
		if err != nil {
			return fmt.Errorf("list IPVS backends of %s: %w", vip, err)
		}
		held := service{scheduler: svc.SchedName, flags: svc.Flags &^ flagHashed, weights: map[netip.Addr]int{}}
		if held.flags&flagPersistent != 0 {
			held.timeout = svc.Timeout
		}
		for _, b := range backends {
			addr, _ := netip.AddrFromSlice(b.Address)
			held.weights[addr.Unmap()] = b.Weight
		}
		s.held[key{vip, svc.FWMark&markUDP != 0}] = held
	}
	return s.readSettings()
}

func (s *space) readSettings() error {
	c, err := s.ipvs.GetConfig()
	if err != nil {
		return fmt.Errorf("IPVS timeouts: %w", err)
	}
	s.settings = *c == timeouts()
	for name, value := range switches() {
		text, err := os.ReadFile(switchPath(name))
		if err == nil && strings.TrimSpace(string(text)) != value {
			s.settings = false
		}
	}
	return nil
}

func switchPath(name string) string { return "/proc/sys/net/ipv4/vs/" + name }

func family(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// differences names what is not as wanted.
func (s *space) differences(want map[key]service) []string {
	var out []string
	if !s.settings {
		out = append(out, "timeouts and switches")
	}
	if !s.whole && len(want) > 0 {
		out = append(out, "rules that mark connections to VIPs")
	}
	if len(s.strays) > 0 {
		out = append(out, fmt.Sprintf("%d services of no VIP", len(s.strays)))
	}
	wrong := map[netip.Addr]bool{}
	for k, svc := range want {
		if held, ok := s.held[k]; !ok || !held.equal(svc) {
			wrong[k.vip] = true
		}
	}
	for k := range s.held {
		if _, ok := want[k]; !ok {
			wrong[k.vip] = true
		}
	}
	for _, vip := range slices.SortedFunc(maps.Keys(wrong), netip.Addr.Compare) {
		out = append(out, "VIP "+vip.String())
	}
	return out
}

// put makes the calling thread's namespace hold what is wanted for a container: services before the marks that lead to them, and the other
// way round when they go. It returns their marks.
func put(want map[key]service, c ipvs.Client, remembered map[netip.Addr]uint32) (map[netip.Addr]uint32, error) {
	s, err := openSpace(remembered)
	if err != nil {
		return nil, err
	}
	defer s.close()
	errs := []error{s.putSettings()}
	for _, stray := range s.strays {
		errs = append(errs, s.ipvs.DelService(stray))
	}
	marks := s.assign(want)
	for k, svc := range want {
		if err := s.putService(k, svc, marks[k.vip], c); err != nil {
			errs = append(errs, fmt.Errorf("VIP %s: %w", k.vip, err))
		}
	}
	if !s.whole || !maps.Equal(marks, s.marks) {
		errs = append(errs, putTable(marks))
	}
	for k := range s.held {
		if _, ok := want[k]; !ok {
			errs = append(errs, s.ipvs.DelService(address(k, s.marks[k.vip])))
		}
	}
	return marks, errors.Join(errs...)
}

func (s *space) putSettings() error {
	if s.settings {
		return nil
	}
	c := timeouts()
	errs := []error{s.ipvs.SetConfig(&c)}
	for name, value := range switches() {
		if err := os.WriteFile(switchPath(name), []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// assign gives each VIP a mark: its own, or one that no other has or had.
func (s *space) assign(want map[key]service) map[netip.Addr]uint32 {
	out, taken := map[netip.Addr]uint32{}, map[uint32]bool{}
	for _, mark := range s.marks {
		taken[mark] = true
	}
	next := uint32(markBase)
	for k := range want {
		mark, ok := s.marks[k.vip]
		if _, done := out[k.vip]; done {
			continue
		}
		for ; !ok; ok = !taken[mark] {
			next += 2
			mark = next
		}
		taken[mark] = true
		out[k.vip] = mark
	}
	return out
}

// address names a service to IPVS.
func address(k key, mark uint32) *lvs.Service {
	if k.udp {
		mark |= markUDP
	}
	out := &lvs.Service{FWMark: mark, AddressFamily: family(k.vip), Netmask: 0xffffffff}
	if k.vip.Is6() {
		out.Netmask = 128
	}
	return out
}

func (s *space) putService(k key, want service, mark uint32, c ipvs.Client) error {
	held, ok := s.held[k]
	at := address(k, mark)
	at.SchedName, at.Flags, at.Timeout = want.scheduler, want.flags, want.timeout
	switch {
	case !ok:
		if err := s.ipvs.NewService(at); err != nil {
			return fmt.Errorf("make its IPVS service, scheduler %s: %w", want.scheduler, err)
		}
	case !held.sameOptions(want):
		if err := s.ipvs.UpdateService(at); err != nil {
			return fmt.Errorf("change its IPVS service, scheduler %s: %w", want.scheduler, err)
		}
	}
	var errs []error
	for _, addr := range order(slices.Collect(maps.Keys(want.weights)), c) {
		weight, there := held.weights[addr]
		d := destination(addr, want.weights[addr])
		switch {
		case !there:
			errs = append(errs, s.ipvs.NewDestination(at, d))
		case weight != want.weights[addr]:
			errs = append(errs, s.ipvs.UpdateDestination(at, d))
		}
	}
	for addr := range held.weights {
		if _, wanted := want.weights[addr]; !wanted {
			errs = append(errs, s.ipvs.DelDestination(at, destination(addr, 0)))
		}
	}
	return errors.Join(errs...)
}

// destination is a backend whose port is the client's own.
func destination(a netip.Addr, weight int) *lvs.Destination {
	return &lvs.Destination{Address: net.IP(a.AsSlice()), Weight: weight, ConnectionFlags: lvs.ConnectionFlagMasq, AddressFamily: family(a)}
}
