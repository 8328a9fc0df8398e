package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// Config is what a Balancer needs.
type Config struct {
	// Namespace opens the network namespace of the container that has an address; nil: it is in none yet, or not any more.
	Namespace func(ipvs.ClientAddr) (*os.File, error)
	// Logger gets what nobody is there to be told; the default is slog's.
	Logger *slog.Logger
}

// How often containers that have no namespace yet are looked for, and how long a namespace is believed to hold what we put there.
const (
	lookEvery   = 100 * time.Millisecond
	rereadEvery = 20 * time.Second
)

// ErrUnsupported means that the kernel has no IPVS.
var ErrUnsupported = errors.New("this kernel has no IPVS (CONFIG_IP_VS; modprobe ip_vs)")

// Supported says whether the kernel has IPVS; its module is loaded for that.
func Supported() error {
	text, err := exec.Command("modprobe", "ip_vs").CombinedOutput()
	if _, there := os.Stat("/proc/net/ip_vs"); there == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w: %s", ErrUnsupported, err, text)
	}
	return ErrUnsupported
}

// Balancer is an ipvs.Balancer of VIPs; it leaves published ports alone. Its methods may be called from several goroutines.
type Balancer struct {
	config Config

	mu    sync.Mutex // guards all below; held over visits
	state ipvs.State
	isSet bool
	// visited is what the namespaces of containers hold, by a container's first address; a container that is not in it has no namespace
	// yet, or could not be visited.
	visited map[ipvs.ClientAddr]visit
}

// visit is what was put into a namespace, and when; the zero time: it has to be looked at again.
type visit struct {
	held  map[key]service
	marks map[netip.Addr]uint32
	at    time.Time
}

// New makes a balancer; it changes nothing before the first Set.
func New(c Config) (*Balancer, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Balancer{config: c, visited: map[ipvs.ClientAddr]visit{}}, nil
}

// Set makes the namespaces of the state's clients hold its VIPs. Run sees to those that are not there yet.
func (b *Balancer) Set(s ipvs.State) error {
	s, err := ipvs.Normalize(s)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.isSet = s, true
	var errs []error
	present := map[ipvs.ClientAddr]bool{}
	for _, c := range s.Clients {
		present[c.Addrs[0]] = true
		errs = append(errs, b.bring(c))
	}
	maps.DeleteFunc(b.visited, func(a ipvs.ClientAddr, _ visit) bool { return !present[a] })
	return errors.Join(errs...)
}

// bring makes one container's namespace hold what it should. b.mu is held.
func (b *Balancer) bring(c ipvs.Client) error {
	want := wanted(b.state, c)
	last, ok := b.visited[c.Addrs[0]]
	if ok && time.Since(last.at) < rereadEvery && maps.EqualFunc(want, last.held, service.equal) {
		return nil
	}
	delete(b.visited, c.Addrs[0])
	ns, err := b.config.Namespace(c.Addrs[0])
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close()
	var marks map[netip.Addr]uint32
	err = inside(ns, func() (err error) {
		marks, err = put(want, c, last.marks)
		return err
	})
	if err != nil {
		return fmt.Errorf("IPVS of the container at %s: %w", c.Addrs[0].Addr, err)
	}
	b.visited[c.Addrs[0]] = visit{want, marks, time.Now()}
	return nil
}

// Run brings VIPs to containers that are made after the state was set, until ctx ends.
func (b *Balancer) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	said := map[ipvs.ClientAddr]string{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			b.bringNew(said)
		}
	}
}

// bringNew visits containers that were not visited; an error is said once.
func (b *Balancer) bringNew(said map[ipvs.ClientAddr]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.state.Clients {
		at := c.Addrs[0]
		if _, done := b.visited[at]; done {
			delete(said, at)
		} else if err := b.bring(c); err != nil && said[at] != err.Error() {
			said[at] = err.Error()
			b.config.Logger.Warn("a container has no load balancer yet", "container", at.Addr, "err", err)
		}
	}
}

// Held is the state as far as it is this package's, as it was set: what the kernel has of it, Damage compares.
func (b *Balancer) Held() (ipvs.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := ipvs.State{Clients: b.state.Clients}
	for _, s := range b.state.Services {
		if !s.Published() {
			out.Services = append(out.Services, s)
		}
	}
	return out, nil
}

// Damage lists what containers' namespaces hold that they should not, or lack. The next Set repairs it.
func (b *Balancer) Damage() ([]ipvs.Difference, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []ipvs.Difference
	var errs []error
	for _, c := range b.state.Clients {
		last, ok := b.visited[c.Addrs[0]]
		if !ok {
			continue // Run sees to it
		}
		found, err := b.examine(c, last)
		if len(found) > 0 || err != nil {
			last.at = time.Time{}
			b.visited[c.Addrs[0]] = last
		}
		out, errs = append(out, found...), append(errs, err)
	}
	return out, errors.Join(errs...)
}

func (b *Balancer) examine(c ipvs.Client, last visit) (out []ipvs.Difference, err error) {
	ns, err := b.config.Namespace(c.Addrs[0])
	if err != nil || ns == nil {
		return nil, err // it has ended
	}
	defer ns.Close()
	err = inside(ns, func() error {
		s, err := openSpace(last.marks)
		if err != nil {
			return err
		}
		defer s.close()
		for _, what := range s.differences(last.held) {
			out = append(out, ipvs.Difference{Kind: "container", What: fmt.Sprintf("IPVS of the container at %s: %s", c.Addrs[0].Addr, what), Want: "as its services need", Have: "changed"})
		}
		return nil
	})
	return out, err
}

// Close does nothing: balancing goes on.
func (b *Balancer) Close() error { return nil }

// Remove takes everything out of containers' namespaces: for a node that turns to another balancer.
func (b *Balancer) Remove() error {
	b.mu.Lock()
	clients := slices.Clone(b.state.Clients)
	b.mu.Unlock()
	return b.Set(ipvs.State{Clients: clients})
}
