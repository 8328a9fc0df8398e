// Package certs is the cluster's trust: its certificate authority, the
// certificates of its nodes, the tokens with which machines join, and the key that
// encrypts what managers keep.
//
// A cluster has one root (ECDSA P-256, self-signed). A node's certificate says
// who it is (CN = node ID), what it may do (OU = role) and where it belongs
// (O = cluster ID). Every stream between nodes is TLS 1.3 and both sides check
// all three. A joining machine knows no root yet, but its token carries the
// root's digest: the server presents its chain with the root, and the digest
// is compared inside the handshake, before the client has sent a byte.
//
// When the root is replaced, the present one cross-signs the next one's key: what
// the next one signs is understood by those who know only the present one.
//
// | state                            | owner                            |
// |----------------------------------|----------------------------------|
// | key, certificate, root on disk   | Keeper.mu (Replace, Keep)        |
// | the same in memory               | atomic pointer, replaced whole   |
// | data key and its lock            | Vault.mu (Lock)                  |
package certs
