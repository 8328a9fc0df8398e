package store

import (
	"crypto/rand"
	"math/big"
	"strings"
)

// NewID returns a random identifier of Swarm's form: 25 characters of base 36,
// 128 bits padded to a fixed length.
func NewID() string {
	const length, bits = 25, 128
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), bits))
	if err != nil {
		panic("store: no randomness: " + err.Error()) // crypto/rand never fails on Linux
	}
	id := n.Text(36)
	return strings.Repeat("0", length-len(id)) + id
}
