// Command meshd is the daemon: one per machine, beside its Docker Engine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	_ "time/tzdata" // schedules name time zones, which small systems have none of

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/meshd"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == meshd.WireGuardCommand {
		if err := meshd.ServeWireGuard(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "meshd:", err)
			os.Exit(1)
		}
		return
	}
	cfg, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "meshd:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := meshd.Run(ctx, cfg); err != nil {
		cfg.Logger.Error("meshd ends", "error", err)
		os.Exit(1)
	}
}

func parse(args []string) (meshd.Config, error) {
	var cfg meshd.Config
	var level slog.LevelVar
	fs := flag.NewFlagSet("meshd", flag.ContinueOnError)
	fs.StringVar(&cfg.StateDir, "state-dir", meshd.DefaultStateDir, "`directory` of keys, raft log and membership")
	fs.StringVar(&cfg.RunDir, "run-dir", meshd.DefaultRunDir, "`directory` of pinned kernel objects")
	fs.StringVar(&cfg.Socket, "socket", meshd.DefaultSocket, "`path` of the API's unix socket")
	fs.StringVar(&cfg.Group, "group", "", "`group`, by name or ID, whose members may use the API's unix socket: they are root on all nodes then (default none)")
	host := func(addr string) error {
		cfg.Hosts = append(cfg.Hosts, addr)
		return nil
	}
	fs.Func("host", "further `address` of the API, tcp://address:port; may be repeated", host)
	fs.Func("H", "short for --host", host)
	var tls meshd.APITLS
	verify := fs.Bool("tlsverify", false, "let only clients of --host in that have a certificate of --tlscacert")
	fs.StringVar(&tls.CA, "tlscacert", "", "`file` of the CA of the API's clients")
	fs.StringVar(&tls.Cert, "tlscert", "", "`file` of the API's certificate")
	fs.StringVar(&tls.Key, "tlskey", "", "`file` of the key of --tlscert")
	fs.BoolVar(&cfg.InsecureTCP, "insecure-tcp", false, "serve --host without TLS beyond this machine: whoever reaches it is root on all nodes")
	fs.StringVar(&cfg.AuditLog, "audit-log", "", "`file` that gets a JSON line for each request that may change something; - is standard output")
	engine := fs.String("engine", meshd.DefaultEngine, "`address` of the local Docker Engine")
	fs.StringVar(&cfg.PluginDir, "plugin-dir", meshd.DefaultPluginDir, "`directory` in which the engine looks for network drivers")
	port := fs.Uint("data-path-port", meshd.DefaultDataPathPort, "UDP `port` of VXLAN unless the cluster says otherwise")
	gossipPort := fs.Uint("gossip-port", meshd.DefaultGossipPort, "TCP and UDP `port` by which nodes watch each other; the same on all nodes")
	wireGuardPort := fs.Uint("wireguard-port", meshd.DefaultWireGuardPort, "UDP `port` of encrypted packets between nodes; they use the next one, too")
	cfg.DirectRouting = true
	fs.BoolFunc("direct-routing", "`mode` of sending to nodes on the same link: auto (without VXLAN where that is seen to arrive), off", func(mode string) error {
		switch mode {
		case "auto", "true":
			cfg.DirectRouting = true
		case "off", "false":
			cfg.DirectRouting = false
		default:
			return fmt.Errorf("want auto or off")
		}
		return nil
	})
	fs.StringVar(&cfg.Datapath, "datapath", "auto", "`driver` that carries packets between containers: auto (what the kernel can do), ebpf, bridge (no eBPF at all)")
	fs.StringVar(&cfg.Balancer, "balancer", meshd.BalancerAuto, "`what` leads connections to virtual addresses: ebpf, ipvs (the kernel's, inside containers), auto (eBPF; where there is none IPVS; or nftables)")
	fs.StringVar(&cfg.LoadBalancer, "load-balancer", "auto", "`mode` of leading connections to virtual addresses by eBPF: auto, socket (refuse to work without it), packet")
	fs.BoolVar(&cfg.BypassFirewall, "bypass-firewall", false, "let published ports answer whatever the rules for this node's own ports (INPUT) say")
	fs.StringVar(&cfg.PublishOn, "publish-on", "", "`list` of interfaces, addresses and prefixes of this node that published ports answer on where their service does not say (default all)")
	fs.Func("encrypt", "`which` networks of a swarm that begins on this node are encrypted: opt-in (those with --opt encrypted), all (the mesh network, too)", func(which string) error {
		if cfg.Encrypt = which; which != "all" && which != "opt-in" {
			return fmt.Errorf("want all or opt-in")
		}
		return nil
	})
	fs.TextVar(&cfg.MeshSubnet, "mesh-subnet", netip.Prefix{}, "`range` of the mesh network of a swarm that begins on this node: an address for each task (default a /16 that is free)")
	fs.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "`address` at which Prometheus may read metrics over TCP, e.g. 127.0.0.1:9323 (they are on the API's socket in any case)")
	fs.BoolVar(&cfg.AllowPrivileged, "allow-privileged", false, "run tasks here that ask for devices or for all privileges (container labels mesh.devices, mesh.privileged)")
	fs.TextVar(&level, "log-level", &level, "least `level` that is logged: DEBUG, INFO, WARN, ERROR")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	for _, p := range []struct {
		name               string
		given, least, most uint
		port               *uint16
	}{
		{"data-path-port", *port, 1024, 49151, &cfg.DataPathPort},
		{"gossip-port", *gossipPort, 1, 65535, &cfg.GossipPort},
		{"wireguard-port", *wireGuardPort, 1, 65534, &cfg.WireGuardPort},
	} {
		if p.given < p.least || p.given > p.most {
			return cfg, fmt.Errorf("--%s %d is not in %d-%d", p.name, p.given, p.least, p.most)
		}
		*p.port = uint16(p.given)
	}
	path, ok := strings.CutPrefix(*engine, "unix://")
	if !ok {
		return cfg, fmt.Errorf("--engine %q: only unix:// addresses are supported", *engine)
	}
	cfg.Engine, cfg.Version = path, version()
	switch {
	case *verify && (tls.CA == "" || tls.Cert == "" || tls.Key == ""):
		return cfg, errors.New("--tlsverify needs --tlscacert, --tlscert and --tlskey")
	case *verify:
		cfg.TLS = &tls
	case tls != meshd.APITLS{}:
		return cfg, errors.New("--tlscacert, --tlscert and --tlskey need --tlsverify: without clients' certificates everybody would be let in")
	}
	if err := cfg.CheckHosts(); err != nil {
		return cfg, err
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	return cfg, nil
}

// version is what the Go tool stamped into the binary.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "0.1.0-dev"
}
