package observe

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/meshd/meshd/ipvs"
)

// Socket is one that a process of this node listens on: TCP's LISTEN, or UDP bound
// and not connected.
type Socket struct {
	Protocol ipvs.Protocol
	Addr     netip.AddrPort
	inode    string
}

// Clash is a published port whose connections from outside no longer reach the
// process that listens on it.
type Clash struct {
	Key     ipvs.Key
	Service string
	Process string
}

func (c Clash) String() string {
	protocol := "tcp"
	if c.Key.Protocol == ipvs.UDP {
		protocol = "udp"
	}
	return fmt.Sprintf("port %d/%s", c.Key.Port, protocol)
}

// The states of such sockets in the kernel's tables (tcp_states.h).
const (
	stateListen  = "0A"
	stateUnbound = "07" // of UDP: TCP_CLOSE
)

// Sockets reads the tables of the network namespace that this process is in, as
// proc_pid_net(5) has them.
func Sockets() ([]Socket, error) { return socketsIn("/proc/self/net") }

func socketsIn(dir string) ([]Socket, error) {
	var out []Socket
	for name, protocol := range map[string]ipvs.Protocol{"tcp": ipvs.TCP, "tcp6": ipvs.TCP, "udp": ipvs.UDP, "udp6": ipvs.UDP} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, "6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("sockets of this node: %w", err)
		}
		found, err := readSockets(f, protocol)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("sockets of this node: table %s: %w", name, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// readSockets: "sl local_address rem_address st tx_queue:rx_queue tr:tm->when
// retrnsmt uid timeout inode ...".
func readSockets(table io.Reader, protocol ipvs.Protocol) ([]Socket, error) {
	state := stateListen
	if protocol == ipvs.UDP {
		state = stateUnbound
	}
	var out []Socket
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != state {
			continue
		}
		addr, err := parseProcAddr(f[1])
		if err != nil {
			return nil, err
		}
		out = append(out, Socket{protocol, addr, f[9]})
	}
	return out, lines.Err()
}

// parseProcAddr reads hex digits, words of four bytes as the machine has them, a
// colon and the port in hex.
func parseProcAddr(s string) (netip.AddrPort, error) {
	digits, number, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("address %q", s)
	}
	for word := range slices.Chunk(raw, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(raw)
	port, err := strconv.ParseUint(number, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q", s)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// Clashes finds the processes whose ports a state's services take.
func Clashes(s ipvs.State, sockets []Socket) []Clash {
	var out []Clash
	for _, svc := range s.Services {
		if !svc.Published() {
			continue
		}
		i := slices.IndexFunc(sockets, func(l Socket) bool { return takes(s, svc.Key, l) })
		if i >= 0 {
			out = append(out, Clash{svc.Key, svc.Name, ProcessOf(sockets[i])})
		}
	}
	return out
}

// takes tells whether connections to the socket go to the service instead.
func takes(s ipvs.State, k ipvs.Key, l Socket) bool {
	if k.Protocol != l.Protocol || k.Port != l.Addr.Port() {
		return false
	}
	at := l.Addr.Addr()
	if !k.Everywhere() {
		return at == k.VIP || at.IsLoopback() && k.VIP.IsLoopback() || at.IsUnspecified() && (at.Is6() || k.VIP.Is4())
	}
	if at.IsUnspecified() {
		return at.Is6() || !k.VIP.IsValid() || k.VIP.Is4()
	}
	return at.Is4() != k.VIP.Is6() && (at.IsLoopback() || slices.Contains(s.NodeAddrs, at))
}

// ProcessOf names the process that has the socket, as far as this one may look.
func ProcessOf(l Socket) string {
	const unknown = "a process"
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return unknown
	}
	link := "socket:[" + l.inode + "]"
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join("/proc", p.Name(), "fd"))
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join("/proc", p.Name(), "fd", fd.Name())); err == nil && to == link {
				name, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
				return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), p.Name())
			}
		}
	}
	return unknown
}
