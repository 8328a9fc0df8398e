package allocator

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/control"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Config is what the loop works with.
type Config struct {
	Store    *store.Store
	Proposer store.Proposer
	Log      *slog.Logger
	// HostRoutes lists the destinations of this machine's routes, which no chosen
	// subnet covers; nil: none are known.
	HostRoutes func() ([]netip.Prefix, error)
}

// Loop allocates for all networks, services and tasks.
type Loop struct {
	cfg  Config
	book *book
	// todo has the objects to look at, blocked those that could not be served, and
	// why.
	todo    map[store.Kind]map[string]bool
	blocked map[store.Kind]map[string]string
	// full says of blocked tasks which network, by ID, has no room for them.
	full map[string]string
	pool poolSettings
	// vni is the highest one handed out in the batch at work, nil if none was.
	vni *uint32
}

type poolSettings struct {
	id    string
	pools []netip.Prefix
	size  uint32
}

// New returns the loop. It belongs to the leader.
func New(cfg Config) *Loop {
	cfg.Log = cfg.Log.With("loop", "allocator")
	return &Loop{cfg: cfg}
}

// Run works until ctx is done.
func (l *Loop) Run(ctx context.Context) error {
	return control.Run(ctx, l.cfg.Store, l.cfg.Log, l)
}

// Reset implements control.Loop.
func (l *Loop) Reset(v *store.View) {
	l.book = newBook(v.Cluster())
	l.pool = settings(v.Cluster())
	l.todo = map[store.Kind]map[string]bool{store.KindNetwork: {}, store.KindService: {}, store.KindTask: {}}
	l.full = map[string]string{}
	l.blocked = map[store.Kind]map[string]string{store.KindNetwork: {}, store.KindService: {}, store.KindTask: {}}
	for _, n := range v.Networks() {
		l.observeNetwork(n)
	}
	for _, s := range v.Services() {
		l.observeService(s)
	}
	for _, t := range v.Tasks() {
		l.observeTask(t)
	}
	l.book.resume(v)
}

// Observe implements control.Loop.
func (l *Loop) Observe(e store.Event) {
	o := e.Object()
	if e.New == nil {
		delete(l.todo[o.Kind()], o.Key())
		delete(l.blocked[o.Kind()], o.Key())
	}
	switch o := o.(type) {
	case *store.Cluster:
		l.observeCluster(o)
	case *store.Network:
		if e.New == nil {
			l.book.dropNetwork(o.ID)
			return
		}
		l.observeNetwork(o)
	case *store.Service:
		if e.New == nil {
			l.warn(l.book.hold(o.ID, nil))
			l.book.publish(o.ID, nil)
			l.book.settle(o.ID, false)
			return
		}
		l.observeService(o)
	case *store.Task:
		if e.New == nil {
			delete(l.full, o.ID)
			l.warn(l.book.see(o, true))
			l.book.host(o.ID, nil)
			return
		}
		l.observeTask(o)
	case *store.Node:
		if e.New == nil || o.Status.State == swarm.NodeStateDown {
			l.book.freed = true // a task may wait for one there to stop
		}
	}
}

func settings(c *store.Cluster) poolSettings {
	if c == nil {
		return poolSettings{}
	}
	return poolSettings{id: c.ID, pools: c.DefaultAddrPool, size: c.SubnetSize}
}

func (l *Loop) observeCluster(c *store.Cluster) {
	if now := settings(c); !reflect.DeepEqual(now, l.pool) {
		l.pool = now
		l.book.pools = newPools(c)
		for _, r := range l.book.networks {
			for _, s := range r.subnets {
				l.warn(l.book.pools.Reserve(s.Prefix()))
			}
		}
		l.book.freed = true
	}
}

func (l *Loop) observeNetwork(n *store.Network) {
	if n.Ready {
		l.warn(l.book.addNetwork(n))
		return
	}
	l.todo[store.KindNetwork][n.ID] = true
}

func (l *Loop) observeService(s *store.Service) {
	addrs, ports := claimsOfService(s)
	l.warn(l.book.hold(s.ID, addrs))
	l.book.publish(s.ID, ports)
	stable, _ := isStable(s.Spec.Labels)
	if stable && !l.book.stable[s.ID] {
		clear(l.full) // its tasks may get addresses that are not free
		l.book.freed = true
	}
	l.book.settle(s.ID, stable)
	l.todo[store.KindService][s.ID] = true
}

func (l *Loop) observeTask(t *store.Task) {
	l.warn(l.book.see(t, false))
	if tasklife.Ended(t) {
		l.book.host(t.ID, nil)
		return
	}
	l.book.host(t.ID, hostedByTask(t))
	if waits(t) && l.blocked[store.KindTask][t.ID] == "" {
		l.todo[store.KindTask][t.ID] = true
	}
}

func waits(t *store.Task) bool {
	if t.Attached() {
		return len(t.NetworksAttachments) < len(t.Spec.Networks)
	}
	return t.Status.State == swarm.TaskStateNew && tasklife.Wanted(t)
}

// warn tells of stored objects that contradict each other. They stay as they are:
// taking an address from a running task would be worse.
func (l *Loop) warn(err error) {
	if err != nil {
		l.cfg.Log.Warn("stored allocations contradict each other", "error", err)
	}
}

// Round implements control.Loop.
func (l *Loop) Round(ctx context.Context) (time.Time, error) {
	for again := true; again; again = l.book.freed {
		for _, step := range []struct {
			kind store.Kind
			do   func(*store.Tx, string) error
		}{
			{store.KindNetwork, l.allocateNetwork},
			{store.KindService, l.allocateService},
			{store.KindTask, l.allocateTask},
		} {
			l.retry()
			ids := slices.Sorted(maps.Keys(l.todo[step.kind]))
			for part := range slices.Chunk(ids, control.MaxBatch) {
				if err := l.batch(ctx, step.kind, part, step.do); err != nil {
					return time.Time{}, err
				}
			}
		}
	}
	return time.Time{}, nil
}

// retry puts back what is blocked, if there is a chance that it can be served now.
func (l *Loop) retry() {
	if !l.book.freed {
		return
	}
	l.book.freed = false
	room := map[string]uint64{}
	for kind, ids := range l.blocked {
		for id := range ids {
			if kind != store.KindTask || l.fits(id, room) {
				l.todo[kind][id] = true
			}
		}
	}
}

// fits says whether the network that a task waits for has room for it and those
// before it: thousands may wait for one address.
func (l *Loop) fits(task string, room map[string]uint64) bool {
	network := l.full[task]
	if network == "" {
		return true
	}
	left, known := room[network]
	if !known {
		left = l.book.room(network)
	}
	room[network] = max(left, 1) - 1
	return left > 0
}

// batch allocates for objects of a kind.
func (l *Loop) batch(ctx context.Context, kind store.Kind, ids []string, do func(*store.Tx, string) error) error {
	l.book.begin()
	failed := map[string]error{}
	err := store.Transact(ctx, l.cfg.Store, l.cfg.Proposer, func(tx *store.Tx) error {
		l.book.rollback() // of an attempt that was refused
		clear(failed)
		l.vni = nil
		for _, id := range ids {
			if err := do(tx, id); err != nil {
				failed[id] = err
			}
		}
		l.keepVNI(tx)
		return nil
	})
	if err != nil {
		l.book.rollback()
		return err
	}
	said := map[string]bool{}
	for _, id := range ids {
		delete(l.todo[kind], id)
		if err := failed[id]; err != nil {
			l.block(kind, id, err, said)
			continue
		}
		if l.blocked[kind][id] != "" {
			delete(l.blocked[kind], id)
			delete(l.full, id)
			l.book.freed = true // others may wait for this one
		}
	}
	return nil
}

// block notes why an object cannot be served; said are the reasons logged already.
func (l *Loop) block(kind store.Kind, id string, err error, said map[string]bool) {
	reason := err.Error()
	if before := l.blocked[kind][id]; before != reason && !said[reason] && !errors.As(err, new(waiting)) {
		said[reason] = true
		l.cfg.Log.Warn("cannot allocate", "kind", kind, "id", id, "error", reason)
	}
	l.blocked[kind][id] = reason
	if kind != store.KindTask {
		return
	}
	var full fullError
	errors.As(err, &full)
	if was := l.full[id]; was != "" && was != full.network {
		l.book.freed = true // who waits for the room that it left
	}
	if l.full[id] = full.network; full.network == "" {
		delete(l.full, id)
	}
}

func (l *Loop) allocateNetwork(tx *store.Tx, id string) error {
	n := tx.Network(id)
	if n == nil || n.Ready {
		return nil
	}
	if l.vni == nil {
		l.vni = new(uint32)
		if c := tx.Cluster(); c != nil {
			*l.vni = c.LastVNI
		}
	}
	next, err := l.book.network(n, l.vni, l.avoid(tx))
	if err != nil {
		if n.Error != err.Error() {
			failed := *n
			failed.Error = err.Error()
			tx.Update(&failed)
		}
		return err
	}
	tx.Update(next)
	return nil
}

// keepVNI stores the VNI handed out last, once for all networks of the batch.
func (l *Loop) keepVNI(tx *store.Tx) {
	if c := tx.Cluster(); c != nil && l.vni != nil && *l.vni != c.LastVNI {
		next := *c
		next.LastVNI = *l.vni
		tx.Update(&next)
	}
}

// avoid lists what no chosen subnet may cover.
func (l *Loop) avoid(tx *store.Tx) []netip.Prefix {
	out := nodeAddrs(tx)
	if l.cfg.HostRoutes == nil {
		return out
	}
	routes, err := l.cfg.HostRoutes()
	if err != nil {
		l.cfg.Log.Warn("subnets are chosen without a look at this machine's routes", "error", err)
	}
	return append(out, routes...)
}

// nodeAddrs are the addresses of nodes, which no overlay may cover: the node could
// not reach them any more from its containers.
func nodeAddrs(tx *store.Tx) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range tx.Nodes() {
		status, _ := netip.ParseAddr(n.Status.Addr)
		for _, a := range []netip.Addr{n.DataAddr, status} {
			if a.IsValid() {
				out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			}
		}
	}
	return out
}

func (l *Loop) allocateService(tx *store.Tx, id string) error {
	s := tx.Service(id)
	if s == nil {
		return nil
	}
	next, err := l.book.service(tx, s)
	if err == nil && next != nil {
		tx.Update(next)
	}
	return err
}

func (l *Loop) allocateTask(tx *store.Tx, id string) error {
	t := tx.Task(id)
	if t == nil || !waits(t) {
		return nil
	}
	next, lost, err := l.tryTask(tx, t)
	if full := (fullError{}); errors.As(err, &full) && l.book.stable[t.ServiceID] {
		err = full.error // there may be another way than room
	}
	if err == nil {
		tx.Update(next)
		if lost != nil {
			tx.Update(lost)
		}
		return nil
	}
	if t.Status.Err != err.Error() {
		failed := *t
		failed.Status.Err = err.Error()
		failed.Status.Timestamp = time.Now().UTC()
		tx.Update(&failed)
	}
	return err
}

func (l *Loop) tryTask(tx *store.Tx, t *store.Task) (next, lost *store.Task, err error) {
	if reason := l.blocked[store.KindService][t.ServiceID]; reason != "" {
		return nil, nil, blockedError(reason)
	}
	if t.Attached() {
		next, err = l.book.attachment(tx, t, time.Now().UTC())
		return next, nil, err
	}
	spec := tx.Spec(t.ServiceID, t.SpecVersion)
	if spec == nil {
		return nil, nil, blockedError("the service's task template is gone")
	}
	return l.book.task(tx, t, &spec.Template, time.Now().UTC())
}

type blockedError string

func (e blockedError) Error() string { return string(e) }
