// Package ipam hands out addresses and subnets. It holds plain values and
// touches nothing: whoever uses it keeps it in step with what is stored.
//
// A Subnet gives addresses of one prefix, a Pools gives prefixes of one or more
// pools. Both go round: the cursor moves on with every allocation, so that what
// was freed is reused as late as possible. A neighbour entry, a DNS answer or a
// client that still knows the old owner then meets nobody instead of a stranger.
//
// Marks are kept in a sparse bitmap (64 addresses a word), so that a /8 or an
// IPv6 /64 costs only what is used of it.
//
// Neither type is safe for concurrent use.
package ipam
