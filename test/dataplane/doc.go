// Package dataplane tests overlay and load balancer together on the real kernel:
// nodes and containers are network namespaces, each node's overlay and balancer
// run in a process of their own, which a test may kill.
package dataplane
