package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/overlay"
)

// Config says what to look at.
type Config struct {
	// Engine is the path of the Docker Engine's socket.
	Engine string
	// Ports are those that a node would listen on; none if it does already.
	Ports []Port
}

// Port is one that a node needs.
type Port struct {
	Network string // tcp or udp
	Number  uint16
	For     string
}

// DefaultPorts are Swarm's.
func DefaultPorts() []Port {
	return []Port{{"tcp", 2377, "control"}, {"tcp", 7946, "gossip"}, {"udp", 7946, "gossip"}, {"udp", 4789, "overlay"}, {"udp", 51820, "encrypted networks"}, {"udp", 51821, "encrypted networks"}}
}

// Machine examines the machine that it runs on.
func Machine(ctx context.Context, c Config) []Finding {
	out := []Finding{kernel(), cgroups(), bpf(), tunnel(), wireGuard(), filter(), conntrack(), mtu()}
	out = append(out, engine(ctx, c.Engine)...)
	for _, p := range c.Ports {
		out = append(out, port(ctx, p))
	}
	return append(out, firewall()...)
}

func kernel() Finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return unseen("kernel", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	least := [2]int{5, 10}
	if runtime.GOARCH == "arm64" {
		least = [2]int{6, 0}
	}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < least[0] || major == least[0] && minor < least[1]) {
		return problem("kernel", "install a newer kernel; 6.6 and later is best", "%s is older than %d.%d", release, least[0], least[1])
	}
	return fine("kernel", "%s", release)
}

func cgroups() Finding {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return unseen("cgroup v2", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return fine("cgroup v2", "mounted on %s", f[1])
		}
	}
	return problem("cgroup v2", "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified", "not mounted: sockets of tasks cannot be balanced")
}

// needs turns the outcome of a try into a finding.
func needs(check, module string, err error) Finding {
	switch {
	case err == nil:
		return fine(check, "the kernel has it")
	case errors.Is(err, os.ErrPermission):
		return unseen(check, "it takes root to see")
	}
	return problem(check, "modprobe "+module+", or a kernel that has it", "the kernel refuses it: %v", err)
}

func bpf() Finding {
	err := overlay.CanRunPrograms()
	switch {
	case err == nil:
		return fine("eBPF", "the kernel has the program types, maps and helpers that are needed")
	case errors.Is(err, os.ErrPermission):
		return unseen("eBPF", "it takes root to see")
	}
	if overlay.CanForward() == nil {
		f := fine("eBPF", "the kernel refuses it (%v); meshd works without: --datapath=bridge, or by itself", err)
		f.Advice = "for all of meshd a kernel from 5.10 on with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_CGROUP_BPF"
		return f
	}
	return problem("eBPF", "a kernel from 5.10 on with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_CGROUP_BPF", "%v", err)
}

// Balancer says what leads connections on this machine, and why.
func Balancer(what string) Finding { return fine("load balancer", "%s", what) }

func tunnel() Finding { return needs("VXLAN", "vxlan", overlay.CanTunnel()) }

func wireGuard() Finding {
	inKernel, err := overlay.CanEncrypt()
	switch {
	case errors.Is(err, os.ErrPermission):
		return unseen("WireGuard", "it takes root to see")
	case err != nil:
		return problem("WireGuard", "modprobe wireguard, or modprobe tun for wireguard-go; only encrypted networks need it", "neither the kernel's nor wireguard-go works: %v", err)
	case !inKernel:
		return fine("WireGuard", "wireguard-go, since the kernel has none: encrypted networks cost several times as much CPU")
	}
	return fine("WireGuard", "the kernel has it")
}

func filter() Finding { return needs("nftables", "nf_tables", overlay.CanFilter()) }

func conntrack() Finding {
	const at = "/proc/sys/net/netfilter/nf_conntrack_"
	count, cerr := readNumber(at + "count")
	most, merr := readNumber(at + "max")
	switch {
	case errors.Is(cerr, os.ErrNotExist):
		f := unseen("conntrack", "connection tracking is not loaded; the first rule that needs it loads it")
		f.Advice = "modprobe nf_conntrack shows whether the kernel has it"
		return f
	case cerr != nil || merr != nil:
		return unseen("conntrack", errors.Join(cerr, merr))
	case count > most/10*9:
		return problem("conntrack", "sysctl -w net.netfilter.nf_conntrack_max=...: new connections are dropped when it is full", "%d of %d rows are in use", count, most)
	}
	return fine("conntrack", "%d of %d rows are in use", count, most)
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// leastMTU is IPv6's (RFC 8200).
const leastMTU = 1280

func mtu() Finding {
	all, err := net.Interfaces()
	if err != nil {
		return unseen("MTU", err)
	}
	var says []string
	for _, it := range all {
		if it.Flags&net.FlagUp == 0 || it.Flags&net.FlagLoopback != 0 || strings.HasPrefix(it.Name, "mesh") || strings.HasPrefix(it.Name, "mv") ||
			strings.HasPrefix(it.Name, "veth") || strings.HasPrefix(it.Name, "docker") || strings.HasPrefix(it.Name, "br-") {
			continue
		}
		says = append(says, fmt.Sprintf("%s %d", it.Name, it.MTU))
		if it.MTU < leastMTU {
			return problem("MTU", fmt.Sprintf("ip link set %s mtu 1500, if the network takes it", it.Name), "%s has %d bytes, less than the %d of IPv6", it.Name, it.MTU, leastMTU)
		}
	}
	return fine("MTU", "%s", strings.Join(says, ", "))
}

// engineTime bounds the wait for the engine.
const engineTime = 5 * time.Second

func engine(ctx context.Context, socket string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	socket = strings.TrimPrefix(socket, "unix://")
	var info struct {
		ServerVersion      string
		LiveRestoreEnabled bool
		Swarm              struct{ LocalNodeState string }
	}
	if err := askEngine(ctx, socket, "/info", &info); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return []Finding{unseen("engine", err)}
		}
		return []Finding{problem("engine", "start it: systemctl start docker; see journalctl -u docker", "the Docker Engine at %s does not answer: %v", socket, err)}
	}
	const least = 20
	major, _, _ := strings.Cut(info.ServerVersion, ".")
	out := []Finding{fine("engine", "Docker Engine %s at %s", info.ServerVersion, socket)}
	if n, err := strconv.Atoi(major); err == nil && n < least {
		out[0] = problem("engine", "install 20.10 or later", "Docker Engine %s is too old", info.ServerVersion)
	}
	if info.LiveRestoreEnabled {
		out = append(out, fine("live-restore", "on: the engine's restarts leave containers alone"))
	} else {
		out = append(out, problem("live-restore", `"live-restore": true in /etc/docker/daemon.json, then systemctl reload docker`, "off: a restart of the engine stops all tasks"))
	}
	if state := info.Swarm.LocalNodeState; state != "" && state != "inactive" {
		out = append(out, problem("engine's swarm", "docker -H unix://"+socket+" swarm leave, or another port: meshctl swarm init --data-path-port",
			"the engine is in a Docker swarm of its own (%s), which has the same ports", state))
	}
	return out
}

func askEngine(ctx context.Context, socket, path string, out any) error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// port tries to take a port, and gives it back.
func port(ctx context.Context, p Port) Finding {
	check := fmt.Sprintf("port %d/%s", p.Number, p.Network)
	var (
		it  interface{ Close() error }
		err error
	)
	lc, addr := net.ListenConfig{}, fmt.Sprintf(":%d", p.Number)
	if p.Network == "udp" {
		it, err = lc.ListenPacket(ctx, p.Network, addr)
	} else {
		it, err = lc.Listen(ctx, p.Network, addr)
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return problem(check, fmt.Sprintf("ss -lnp 'sport = :%d' says by whom; a Docker swarm's VXLAN device has no process", p.Number), "it is taken, and needed for %s", p.For)
	case err != nil:
		return unseen(check, err)
	}
	if err := it.Close(); err != nil {
		return unseen(check, err)
	}
	return fine(check, "free for %s", p.For)
}

func firewall() []Finding {
	chains, err := overlay.ClosedChains()
	if err != nil {
		return []Finding{unseen("firewall", err)}
	}
	var out []Finding
	for _, family := range []string{"", "6"} {
		if tables, err := os.ReadFile("/proc/net/ip" + family + "_tables_names"); err == nil && slices.Contains(strings.Fields(string(tables)), "filter") {
			out = append(out, Finding{Check: "firewall", Level: OK, Says: "there may be rules of ip" + family + "tables-legacy, which are not looked at here",
				Advice: "ip" + family + "tables-legacy -S INPUT shows them; " + accept})
		}
	}
	switch {
	case len(chains) > 0:
		out = append(out, Finding{Check: "firewall", Level: OK, Says: "these chains drop what no rule of theirs accepts: " + strings.Join(chains, ", "), Advice: "have them " + accept})
	case len(out) == 0:
		out = append(out, fine("firewall", "no nftables chain drops what comes in unasked"))
	}
	return out
}

// accept is what a packet filter has to do.
const accept = "accept 2377/tcp, 7946/tcp, 7946/udp, 4789/udp and, for encrypted networks, 51820/udp and 51821/udp from the nodes"
