// Package attach lets Docker Engine attach containers to overlay networks: it is
// a remote network driver, JSON over HTTP on a unix socket in the engine's plugin
// directory (docs.docker.com/engine/extend/plugins_network; the calls are those
// of libnetwork's docs/remote.md).
//
// Of a container the engine tells CreateEndpoint its address, and Join must
// answer with the name of an interface in the node's namespace; the engine moves
// it into the container, renames it, and sets address, MAC and default route.
// The container's namespace does not exist yet at Join.
//
// What the engine does not tell, or not again:
//   - which cluster network a network is: options mesh.network, mesh.vni and
//     mesh.mesh, given when the network is made. The engine never repeats
//     CreateNetwork, so networks are kept in a file in Config.Dir.
//   - which task a container is: DriverOpts mesh.task of its endpoint.
//   - with live-restore, anything at all when either side restarts. What is
//     attached is known from the interfaces themselves (package overlay).
//
// Nothing here may call the engine's API: while the engine starts it waits for
// the driver, and would wait for itself.
package attach
