package observe

import (
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// collector reads all parts at each scrape. It implements prometheus.Collector.
type collector struct {
	o       *Observer
	version string
	descs   descs
}

// descs are the metrics, each with its labels in order.
type descs struct {
	info, readable                                        *prometheus.Desc
	connections, packets, refused, backends, flows        *prometheus.Desc
	backendConnections, backendBytes, backendFailures     *prometheus.Desc
	ejected, ejections                                    *prometheus.Desc
	handshake, sealed                                     *prometheus.Desc
	drops, repairs, peers                                 *prometheus.Desc
	entries, capacity                                     *prometheus.Desc
	endpoints, revision, toldRevision, lagTime            *prometheus.Desc
	answers, answerTime                                   *prometheus.Desc
	tasks, certificate                                    *prometheus.Desc
	watched, nodeLag                                      *prometheus.Desc
	leading, hasLeader, term, last, commit, applied, size *prometheus.Desc
}

func newCollector(o *Observer, version string) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("meshd_"+name, help, labels, nil)
	}
	service := []string{"service", "network", "vip", "port", "protocol"}
	return &collector{o: o, version: version, descs: descs{
		info:               d("build_info", "Always 1; the label is meshd's version.", "version"),
		readable:           d("part_readable", "1 if the part could be read for this scrape.", "part"),
		connections:        d("service_connections_total", "Connections that this node led to a backend of the service.", service...),
		packets:            d("service_packets_total", "Packets of clients to the service.", service...),
		refused:            d("service_refused_total", "Packets to the service that this node could give to no backend.", append(service, "reason")...),
		backends:           d("service_backends", "Backends that this node should know.", append(service, "state")...),
		flows:              d("backend_flows", "Connections to a backend that this node remembers.", append(service, "backend", "state")...),
		backendConnections: d("backend_connections_total", "Connections that this node led to the backend.", append(service, "backend")...),
		backendBytes:       d("backend_bytes_total", "Bytes of IP packets to and from the backend on connections that this node led.", append(service, "backend", "direction")...),
		backendFailures:    d("backend_failures_total", "Connections that this node led and the backend refused, did not answer in time, or reset.", append(service, "backend", "kind")...),
		ejected:            d("backend_ejected_until_timestamp_seconds", "Until when the backend gets no new connections because it failed.", append(service, "backend")...),
		ejections:          d("service_ejections_total", "How often a backend of the service was ejected because it failed.", append(service, "failure")...),
		drops:              d("dropped_packets_total", "Packets that were dropped or refused.", "part", "reason"),
		repairs:            d("repairs_total", "Objects in the kernel that were put right after somebody else changed them.", "part", "kind"),
		entries:            d("map_entries", "Entries of one of the data path's maps in the kernel.", "part", "map"),
		capacity:           d("map_capacity", "The most entries that the map can have.", "part", "map"),
		peers:              d("peers", "Nodes that packets are sent to, by how.", "transport"),
		handshake:          d("wireguard_handshake_age_seconds", "How long ago the last WireGuard handshake with the node was; two minutes at most where it is reached, infinite where there was none.", "node"),
		sealed:             d("wireguard_bytes_total", "Bytes of encrypted packets to and from the node, since its newest key.", "node", "direction"),
		endpoints:          d("network_endpoints", "Tasks on the network, on all nodes.", "network", "state"),
		revision:           d("network_revision", "Revision of the network that this node's kernel holds.", "network"),
		toldRevision:       d("network_revision_told", "Newest revision of the network that a manager told this node.", "network"),
		lagTime:            d("network_lag_seconds", "How long the kernel has held less than the newest revision; 0 when it holds it.", "network"),
		answers:            d("dns_answers_total", "Answers of the resolver.", "source", "rcode"),
		answerTime:         d("dns_answer_seconds", "Time from a query's arrival to its answer.", "source"),
		tasks:              d("tasks", "Tasks of this node.", "state"),
		certificate:        d("certificate_expiry_timestamp_seconds", "When this node's certificate expires."),
		watched:            d("nodes_watched", "Nodes that have their session with this manager."),
		nodeLag:            d("network_node_lag_seconds", "How long the node has not acknowledged a change of the network to this manager; nothing when it has all.", "network", "node"),
		leading:            d("raft_leading", "1 if this manager leads."),
		hasLeader:          d("raft_has_leader", "1 if this manager knows a leader."),
		term:               d("raft_term", "Raft's term."),
		last:               d("raft_last_index", "Last entry of this manager's log."),
		commit:             d("raft_commit_index", "Last entry that a majority of the managers has."),
		applied:            d("raft_applied_index", "Last entry in this manager's store."),
		size:               d("raft_members", "Managers of the swarm."),
	}}
}

// Describe sends nothing: which metrics there are depends on the node's role.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all parts; one that cannot be read does not hide the others.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := sink{out}
	s.gauge(c.descs.info, 1, c.version)
	v := c.o.View()
	c.readable(s, "overlay", c.overlay(s, v))
	c.readable(s, "balancer", c.balancer(s, v))
	c.readable(s, "maps", c.maps(s))
	c.networks(s, v)
	c.resolver(s)
	c.member(s, v)
}

func (c *collector) readable(s sink, part string, err error) {
	if err != nil {
		c.o.log.Warn("metrics are incomplete", "part", part, "error", err)
	}
	s.gauge(c.descs.readable, truth(err == nil), part)
}

func (c *collector) overlay(s sink, v View) error {
	for kind, n := range c.o.Overlay.Repairs() {
		s.counter(c.descs.repairs, n, "overlay", kind)
	}
	for transport, n := range c.o.Overlay.Transports() {
		s.gauge(c.descs.peers, float64(n), string(transport))
	}
	for _, p := range c.o.Overlay.EncryptedPeers() {
		age, name := math.Inf(1), nodeName(v.node(p.ID))
		if !p.Handshake.IsZero() {
			age = c.o.now().Sub(p.Handshake).Seconds()
		}
		s.gauge(c.descs.handshake, age, name)
		s.counter(c.descs.sealed, p.Sent, name, "to")
		s.counter(c.descs.sealed, p.Received, name, "from")
	}
	drops, err := c.o.Overlay.Drops()
	for reason, n := range drops {
		s.counter(c.descs.drops, n, "overlay", reason)
	}
	return err
}

func (c *collector) maps(s sink) error {
	if c.o.Maps == nil {
		return nil
	}
	fills, err := c.o.Maps()
	for _, f := range fills {
		s.gauge(c.descs.entries, float64(f.Entries), f.Part, f.Map)
		s.gauge(c.descs.capacity, float64(f.Capacity), f.Part, f.Map)
	}
	return err
}

func (c *collector) balancer(s sink, v View) error {
	for kind, n := range c.o.Keeper.Repairs() {
		s.counter(c.descs.repairs, n, "balancer", kind)
	}
	stats, err := c.o.Balancer.Stats()
	if err != nil {
		return err
	}
	for reason, n := range stats.Drops {
		s.counter(c.descs.drops, n, "balancer", reason)
	}
	for _, svc := range stats.Services {
		labels := serviceLabels(v, svc.Key, svc.Name)
		s.counter(c.descs.connections, svc.Connections, labels...)
		s.counter(c.descs.packets, svc.Packets, labels...)
		for reason, n := range svc.Refused {
			s.counter(c.descs.refused, n, append(labels, reason)...)
		}
		for _, b := range svc.Backends {
			c.backend(s, append(labels, b.Addr.String()), b.Counts)
		}
	}
	for _, e := range c.o.Keeper.Ejected() {
		s.gauge(c.descs.ejected, float64(e.Until.Unix()), append(serviceLabels(v, e.Key, e.Service), e.Addr.String())...)
	}
	for e, n := range c.o.Keeper.Ejections() {
		s.counter(c.descs.ejections, n, append(serviceLabels(v, e.Key, e.Service), string(e.Failure))...)
	}
	for _, svc := range v.Desired.IPVS.Services {
		serving, draining := countBackends(svc)
		labels := serviceLabels(v, svc.Key, svc.Name)
		s.gauge(c.descs.backends, float64(serving), append(labels, "serving")...)
		s.gauge(c.descs.backends, float64(draining), append(labels, "draining")...)
	}
	return c.flows(s, v)
}

// backend tells what a backend got; labels end with its address and may be appended to.
func (c *collector) backend(s sink, labels []string, n ebpf.Counts) {
	s.counter(c.descs.backendConnections, n.Connections, labels...)
	s.counter(c.descs.backendBytes, n.Bytes, append(labels, "to")...)
	s.counter(c.descs.backendBytes, n.AnswerBytes, append(labels, "from")...)
	for kind, failures := range map[string]uint64{"refused": n.Refusals, "timeout": n.Timeouts, "reset": n.Resets} {
		s.counter(c.descs.backendFailures, failures, append(labels, kind)...)
	}
}

func countBackends(s ipvs.Service) (serving, draining int) {
	for _, b := range s.Backends {
		if b.Draining {
			draining++
		} else {
			serving++
		}
	}
	return serving, draining
}

// backendFlows is what connections are counted by.
type backendFlows struct {
	key     ipvs.Key
	service string
	backend string
	state   string
}

func (c *collector) flows(s sink, v View) error {
	flows, err := c.o.Balancer.Flows()
	if err != nil {
		return err
	}
	counts := map[backendFlows]int{}
	for _, f := range flows {
		if f.Service != "" { // else the service is gone, and its metrics with it
			counts[backendFlows{f.Key, f.Service, f.Backend.Addr().String(), flowState(f)}]++
		}
	}
	for k, n := range counts {
		s.gauge(c.descs.flows, float64(n), append(serviceLabels(v, k.key, k.service), k.backend, k.state)...)
	}
	return nil
}

// The states of connections.
const (
	flowOpen    = "open"
	flowIdle    = "idle"
	flowClosing = "closing"
)

// udpIdle is when a silent UDP flow counts as over, as in ipvs/ebpf/bpf/flow.h.
const udpIdle = 120 * time.Second

func flowState(f ebpf.Flow) string {
	switch {
	case f.Closing:
		return flowClosing
	case f.Protocol == ipvs.UDP && f.Idle > udpIdle:
		return flowIdle
	}
	return flowOpen
}

// serviceLabels gives the values of the labels that every service's metric has. Its
// result may be appended to.
func serviceLabels(v View, k ipvs.Key, name string) []string {
	network, vip, port := strconv.Itoa(int(k.VNI)), "", ""
	if n, ok := v.network(k.VNI); ok {
		network = n.Name
	}
	if k.VIP.IsValid() { // "::" where a port is published on all IPv6 addresses
		vip = k.VIP.String()
	}
	if k.Port != 0 {
		port = strconv.Itoa(int(k.Port))
	}
	const labels, more = 5, 2
	return append(make([]string, 0, labels+more), name, network, vip, port, protocolName(k.Protocol))
}

func protocolName(p ipvs.Protocol) string {
	switch p {
	case ipvs.TCP:
		return "tcp"
	case ipvs.UDP:
		return "udp"
	case ipvs.AnyProtocol:
		return ""
	}
	return strconv.Itoa(int(p))
}

func (c *collector) networks(s sink, v View) {
	for _, n := range v.Networks {
		states := map[protocol.EndpointState]int{protocol.EndpointStarting: 0, protocol.EndpointServing: 0, protocol.EndpointDraining: 0}
		for _, e := range n.Endpoints {
			states[e.State]++
		}
		for state, count := range states {
			s.gauge(c.descs.endpoints, float64(count), n.Name, string(state))
		}
		s.gauge(c.descs.revision, float64(v.Held[n.ID]), n.Name)
		s.gauge(c.descs.toldRevision, float64(n.Revision), n.Name)
		lag := 0.0
		if since, behind := v.Behind[n.ID]; behind {
			lag = c.o.now().Sub(since).Seconds()
		}
		s.gauge(c.descs.lagTime, lag, n.Name)
	}
}

func (c *collector) resolver(s sink) {
	stats := c.o.Resolver.Stats()
	for _, a := range stats.Answers {
		s.counter(c.descs.answers, a.Count, a.Source, a.Rcode)
	}
	s.counter(c.descs.drops, stats.Shed, "resolver", "share")
	for _, l := range stats.Latency {
		buckets := make(map[float64]uint64, len(l.Buckets))
		for bound, n := range l.Buckets {
			buckets[bound.Seconds()] = n
		}
		s.out <- prometheus.MustNewConstHistogram(c.descs.answerTime, l.Count, l.Sum.Seconds(), buckets, l.Source)
	}
}

func (c *collector) member(s sink, v View) {
	m := c.o.Member()
	for state, n := range m.Tasks {
		s.gauge(c.descs.tasks, float64(n), string(state))
	}
	if !m.CertificateExpires.IsZero() {
		s.gauge(c.descs.certificate, float64(m.CertificateExpires.Unix()))
	}
	if m.Raft == nil {
		return
	}
	s.gauge(c.descs.watched, float64(len(m.Watched)))
	for _, l := range m.Lags {
		s.gauge(c.descs.nodeLag, c.o.now().Sub(l.Since).Seconds(), v.networkCalled(l.Network), nodeName(v.node(l.Node)))
	}
	s.gauge(c.descs.leading, truth(m.Raft.Leading))
	s.gauge(c.descs.hasLeader, truth(m.Raft.Leader != ""))
	s.gauge(c.descs.term, float64(m.Raft.Term))
	s.gauge(c.descs.last, float64(m.Raft.LastIndex))
	s.gauge(c.descs.commit, float64(m.Raft.CommitIndex))
	s.gauge(c.descs.applied, float64(m.Raft.AppliedIndex))
	s.gauge(c.descs.size, float64(m.Raft.Members))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// sink takes readings.
type sink struct{ out chan<- prometheus.Metric }

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) counter(d *prometheus.Desc, v uint64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}
