package certs

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// ErrToken: the text is not a join token.
var ErrToken = errors.New("invalid join token")

// Token is what a machine needs to join: Digest names the cluster's root,
// Secret proves the right to join, and as what. Its text has Swarm's form.
type Token struct {
	Digest string
	Secret string
}

const (
	tokenPrefix = "SWMTKN-1-"
	digestLen   = 50 // 256 bits in base 36
	secretLen   = 25 // 128 bits in base 36
)

// NewToken makes a token with a fresh secret for the cluster of the root.
func NewToken(rootPEM []byte) (string, error) {
	digest, err := Digest(rootPEM)
	if err != nil {
		return "", err
	}
	var secret [16]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", fmt.Errorf("certs: make token: %w", err)
	}
	return Token{Digest: digest, Secret: base36(secret[:], secretLen)}.String(), nil
}

// ParseToken reads a token. White space around it is forgiven.
func ParseToken(text string) (Token, error) {
	form := regexp.MustCompile(`^SWMTKN-1-([0-9a-z]{50})-([0-9a-z]{25})$`)
	m := form.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return Token{}, ErrToken
	}
	return Token{Digest: m[1], Secret: m[2]}, nil
}

// String is the token's text.
func (t Token) String() string { return tokenPrefix + t.Digest + "-" + t.Secret }

// Equal compares two tokens in constant time.
func (t Token) Equal(o Token) bool {
	return subtle.ConstantTimeCompare([]byte(t.String()), []byte(o.String())) == 1
}

// Digest names a root: SHA-256 of its DER in base 36, 50 characters. Of a
// bundle it names the first.
func Digest(rootPEM []byte) (string, error) {
	roots, err := parseCerts(rootPEM)
	if err != nil {
		return "", err
	}
	return digestDER(roots[0].Raw), nil
}

func digestDER(der []byte) string {
	sum := sha256.Sum256(der)
	return base36(sum[:], digestLen)
}

func base36(b []byte, length int) string {
	s := new(big.Int).SetBytes(b).Text(36)
	return strings.Repeat("0", max(0, length-len(s))) + s
}
