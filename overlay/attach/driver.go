package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/meshd/meshd/overlay"
)

// Attacher is what the driver needs of the overlay.
type Attacher interface {
	// Attach makes a container's interface and returns the name of the end that
	// the engine moves; the same again changes nothing.
	Attach(overlay.Attachment) (peerName string, err error)
	// Detach removes it; an unknown ID is no error.
	Detach(id string) error
}

// Config is what a Driver needs.
type Config struct {
	// Socket is the path in the engine's plugin directory; its name without
	// ".sock" is the driver's, e.g. /run/docker/plugins/meshd.sock.
	Socket  string
	Overlay Attacher
	// Dir keeps what the engine says only once; it must last as long as the
	// engine's networks do.
	Dir    string
	Logger *slog.Logger
}

const (
	// maxBody bounds a call's body in bytes.
	maxBody = 1 << 20
	// grace is how long calls under way may take when the driver stops.
	grace = 3 * time.Second
)

// Driver is the remote network driver.
type Driver struct {
	cfg      Config
	store    *store
	listener net.Listener
}

// New opens the socket, so that the engine finds the driver as early as
// possible: without one each of its calls waits 15 s. A socket that an earlier
// process left is replaced.
func New(cfg Config) (*Driver, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := openStore(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("network driver: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("network driver: %w", err)
	}
	if err := os.Remove(cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("network driver: %w", err)
	}
	l, err := net.Listen("unix", cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("network driver: %w", err)
	}
	return &Driver{cfg: cfg, store: s, listener: l}, nil
}

// Run serves the engine until ctx ends, and removes the socket: the engine
// waits long for one that nobody answers on.
func (d *Driver) Run(ctx context.Context) error {
	server := &http.Server{Handler: d.Handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(d.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("network driver: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// Handler serves the driver's calls.
func (d *Driver) Handler() http.Handler {
	mux := http.NewServeMux()
	nothing := func([]byte) (any, error) { return struct{}{}, nil }
	for path, call := range map[string]func([]byte) (any, error){
		"/Plugin.Activate": func([]byte) (any, error) {
			return map[string][]string{"Implements": {"NetworkDriver"}}, nil
		},
		"/NetworkDriver.GetCapabilities": func([]byte) (any, error) {
			return map[string]string{"Scope": "local", "ConnectivityScope": "global"}, nil
		},
		"/NetworkDriver.CreateNetwork":    decoded(d.createNetwork),
		"/NetworkDriver.DeleteNetwork":    decoded(d.deleteNetwork),
		"/NetworkDriver.CreateEndpoint":   decoded(d.createEndpoint),
		"/NetworkDriver.DeleteEndpoint":   decoded(d.deleteEndpoint),
		"/NetworkDriver.EndpointOperInfo": func([]byte) (any, error) { return map[string]any{"Value": map[string]string{}}, nil },
		"/NetworkDriver.Join":             decoded(d.join),
		"/NetworkDriver.Leave":            decoded(d.leave),
		// Published ports are the load balancer's; the engine's own discovery and
		// swarm mode are not used.
		"/NetworkDriver.ProgramExternalConnectivity": nothing,
		"/NetworkDriver.RevokeExternalConnectivity":  nothing,
		"/NetworkDriver.DiscoverNew":                 nothing,
		"/NetworkDriver.DiscoverDelete":              nothing,
		"/NetworkDriver.AllocateNetwork":             nothing,
		"/NetworkDriver.FreeNetwork":                 nothing,
	} {
		mux.HandleFunc("POST "+path, d.serve(path, call))
	}
	return mux
}

func decoded[T any](call func(T) (any, error)) func([]byte) (any, error) {
	return func(body []byte) (any, error) {
		var in T
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, fmt.Errorf("bad request: %w", err)
		}
		return call(in)
	}
}

// serve answers as the protocol wants it: an error is a field of a normal answer.
func (d *Driver) serve(path string, call func([]byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var out any
		if err == nil {
			out, err = call(body)
		}
		if err != nil {
			d.cfg.Logger.Warn("engine's call failed", "call", path, "error", err)
			out = map[string]string{"Err": err.Error()}
		}
		w.Header().Set("Content-Type", contentType)
		if err := json.NewEncoder(w).Encode(out); err != nil {
			d.cfg.Logger.Debug("engine went away", "call", path, "error", err)
		}
	}
}

func (d *Driver) createNetwork(r createNetworkRequest) (any, error) {
	n, err := r.network()
	if err != nil {
		return nil, err
	}
	return struct{}{}, d.store.change(func(s *saved) { s.Networks[r.NetworkID] = n })
}

func (d *Driver) deleteNetwork(r createNetworkRequest) (any, error) {
	return struct{}{}, d.store.change(func(s *saved) { delete(s.Networks, r.NetworkID) })
}

func (d *Driver) createEndpoint(r endpointRequest) (any, error) {
	n, ok := d.store.network(r.NetworkID)
	if !ok {
		return nil, errUnknownNetwork
	}
	a, err := r.attachment(n)
	if err != nil {
		return nil, err
	}
	if err := d.store.change(func(s *saved) { s.Endpoints[a.ID] = a }); err != nil {
		return nil, err
	}
	var out createEndpointResponse
	if r.Interface.MacAddress == "" {
		out.Interface.MacAddress = a.MAC
	}
	return out, nil
}

func (d *Driver) join(r endpointRequest) (any, error) {
	a, ok := d.store.endpoint(r.EndpointID)
	if !ok {
		return nil, errUnknownEndpoint
	}
	n, ok := d.store.network(r.NetworkID)
	if !ok {
		return nil, errUnknownNetwork
	}
	peer, err := d.cfg.Overlay.Attach(a)
	if err != nil {
		return nil, err
	}
	out := joinResponse{
		InterfaceName: interfaceName{SrcName: peer, DstPrefix: "eth"},
		StaticRoutes:  n.routes(a.Addrs),
		// Without this the engine adds a bridge interface of its own to containers
		// that have no gateway, and with it a second way out.
		DisableGatewayService: true,
	}
	if n.Mesh {
		for _, g := range n.Gateways {
			if g.Is4() {
				out.Gateway = g.String()
			} else {
				out.GatewayIPv6 = g.String()
			}
		}
	}
	return out, nil
}

func (d *Driver) leave(r endpointRequest) (any, error) {
	return struct{}{}, d.cfg.Overlay.Detach(r.EndpointID)
}

func (d *Driver) deleteEndpoint(r endpointRequest) (any, error) {
	err := d.cfg.Overlay.Detach(r.EndpointID)
	return struct{}{}, errors.Join(err, d.store.change(func(s *saved) { delete(s.Endpoints, r.EndpointID) }))
}
