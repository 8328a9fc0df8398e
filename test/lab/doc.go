// Package lab runs N complete nodes of a cluster on one machine: each with its own address, Docker Engine and meshd, as processes that
// could run on N machines unchanged. Users try a cluster on a laptop with it (meshctl lab); the end-to-end tests use the same.
//
// # What a node is
//
// A node is ONE process, the node's init, which is pid 1 of its own pid namespace and owns the node's mount and uts namespaces too. It
// is this same program, executed again (Reexec). It mounts a /run of its own (plugin sockets, containerd's socket and network namespaces
// have fixed names there), then waits for requests on init.sock: start a daemon, signal it, say what runs. When init dies, however it
// dies, the kernel kills every process of the node at once: containers, shims, engine, meshd. That is what Kill, a power cut, is.
//
// The network namespaces are named (/run/netns/<lab>-<node>), so that `ip netns` sees them:
//
//	<lab>-node1  eth0 198.18.n.1 ──┐
//	<lab>-node2  eth0 198.18.n.2 ──┤ br0, 198.18.n.254, in <lab>-hub; ports carry the names of the nodes
//	<lab>-client eth0 198.18.n.200 ┘
//
// Beside it each has an IPv6 address of fd6d:6573:6800:<12 or 13><n>::/64 that ends alike (::c8 for the client), or it alone (IPv6Only).
//
// Nothing is added to the machine's own namespace. The hub prohibits whatever leaves the lab, so that a look-up in the world outside
// fails at once and not by timeout. The engines take images from any registry on the lab's own subnet, without TLS.
//
// # Where things are
//
//	/run/meshd/<lab>/<node>/         {meshd,docker,containerd,init}.{sock,log}; the same path inside the node
//	/var/lib/meshd-lab/<lab>/<node>/ docker/ containerd/ (the engine's data), meshd/ (the state directory): survives Kill and Stop
//	/var/lib/meshd-lab/<lab>/lab.json what was made, written before it is made
//	cgroup /meshd-<lab>/<node>       the node's containers, in every hierarchy
//
// # Cleaning up
//
// Names derive from the lab's name and the node list alone, and lab.json is written first; so Down needs nothing but lab.json, and works
// after a crash at any point. A process belongs to the lab if its network namespace is one of the lab's, or if it is a recorded init with
// the recorded start time; nothing else is ever killed.
package lab
