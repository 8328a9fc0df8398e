// Package certs is the cluster's trust: its certificate authority, the
// certificates of its nodes, and the tokens with which machines join.
//
// A cluster has one root (ECDSA P-256, self-signed). A node's certificate says
// who it is (CN = node ID), what it may do (OU = role) and where it belongs
// (O = cluster ID). Every stream between nodes is TLS 1.3 and both sides check
// all three. A joining machine knows no root yet, but its token carries the
// root's digest: the server presents its chain with the root, and the digest
// is compared inside the handshake, before the client has sent a byte.
//
// | state                            | owner                            |
// |----------------------------------|----------------------------------|
// | key, certificate, root on disk   | Keeper.mu (Replace)              |
// | the same in memory               | atomic pointer, replaced whole   |
package certs
