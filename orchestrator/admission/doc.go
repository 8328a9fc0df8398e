// Package admission decides who is part of the cluster: it founds one, lets
// machines join by token, renews certificates, makes managers voters of raft,
// and sees nodes off.
//
// Every manager answers these calls (Desk). What they need to know, tokens and
// roles, they read behind a barrier, so that a token rotated a moment ago opens
// no door on a manager that lags. A joining machine's way:
//
//	machine                                manager
//	  TLS without certificate; compares the root's digest with its token
//	  /v1/join  token, CSR  ------------>  compares the secret, stores the Node,
//	            ID, certificate, root <--  signs
//	  (managers only) opens its port and its raft, then with its certificate:
//	  /v1/raft/join  address ----------->  the leader dials back, adds the voter
//
// The node's ID comes from its first key: a join that is repeated because the
// answer was lost makes no second node.
//
// Two goroutines of the leader's term own nothing and end with its context:
// Roles.Run takes managers that were demoted or removed out of raft; Keys.Run
// renews the keys of the nodes' gossip, which travel to members in their sessions.
package admission
