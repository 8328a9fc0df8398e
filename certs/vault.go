package certs

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// keyFile holds a Vault's data key. In the clear it is the bare key, locked it is longer.
const keyFile = "raft.key"

// wrappedSize is the length of a data key that Seal has wrapped.
const wrappedSize = chacha20poly1305.NonceSizeX + chacha20poly1305.KeySize + chacha20poly1305.Overhead

// vaultAAD binds a wrapped data key to what it is for.
const vaultAAD = "meshd data key 1"

// Errors of locked managers.
var (
	// ErrLocked: the unlock key is needed.
	ErrLocked = errors.New("it is locked by the swarm's unlock key")
	// ErrUnlockKey: the text is no unlock key, or another one than the vault's.
	ErrUnlockKey = errors.New("invalid unlock key")
)

// UnlockKey is what a swarm's managers need to start while autolock is on. Its
// text has Swarm's form. Nil: autolock is off.
type UnlockKey []byte

const unlockPrefix = "SWMKEY-1-"

// NewUnlockKey makes a key of 256 random bits.
func NewUnlockKey() UnlockKey {
	k := make(UnlockKey, chacha20poly1305.KeySize)
	rand.Read(k) // never fails (crypto/rand)
	return k
}

// ParseUnlockKey reads a key; no text is no key. White space around it is forgiven.
func ParseUnlockKey(text string) (UnlockKey, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	form := regexp.MustCompile(`^` + unlockPrefix + `([0-9A-Za-z+/]{43})$`)
	m := form.FindStringSubmatch(text)
	if m == nil {
		return nil, ErrUnlockKey
	}
	k, err := base64.RawStdEncoding.DecodeString(m[1])
	if err != nil {
		return nil, ErrUnlockKey
	}
	return k, nil
}

// String is the key's text.
func (k UnlockKey) String() string {
	if k == nil {
		return ""
	}
	return unlockPrefix + base64.RawStdEncoding.EncodeToString(k)
}

// Vault holds the data key that encrypts all that a manager keeps: raft's log and
// snapshots, and its private key. The unlock key, if there is one, wraps the data
// key, so that another one costs no more than writing a small file.
type Vault struct {
	path string
	aead cipher.AEAD

	mu   sync.Mutex // guards what follows, and the file
	key  []byte
	lock UnlockKey
}

// OpenVault reads the data key in dir. If there is none it is made, in the clear,
// when create is set; else that is fs.ErrNotExist: data is there that nobody can
// read without it. It fails with ErrLocked or ErrUnlockKey if unlock does not fit.
func OpenVault(dir string, unlock UnlockKey, create bool) (*Vault, error) {
	v := &Vault{path: filepath.Join(dir, keyFile), lock: unlock}
	text, err := os.ReadFile(v.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		v.key, v.lock = NewUnlockKey(), nil
		err = v.write(nil)
	case err == nil && len(text) == chacha20poly1305.KeySize:
		v.key, v.lock = text, nil
	case err == nil && len(text) != wrappedSize:
		err = fmt.Errorf("it is damaged: a key has %d bytes, or %d if it is locked, this one %d", chacha20poly1305.KeySize, wrappedSize, len(text))
	case err == nil && unlock == nil:
		err = ErrLocked
	case err == nil:
		v.key, err = unwrap(text, unlock)
	}
	if err != nil {
		return nil, fmt.Errorf("certs: the key of this manager's data, %s: %w", v.path, err)
	}
	v.aead, err = chacha20poly1305.NewX(v.key)
	if err != nil {
		return nil, fmt.Errorf("certs: the key of this manager's data, %s: %w", v.path, err)
	}
	return v, nil
}

func unwrap(text []byte, unlock UnlockKey) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(unlock)
	if err != nil {
		return nil, ErrUnlockKey
	}
	key, err := Unseal(aead, text, []byte(vaultAAD))
	if err != nil {
		return nil, ErrUnlockKey
	}
	return key, nil
}

// Lock wraps the data key anew; nil leaves it in the clear.
func (v *Vault) Lock(unlock UnlockKey) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if unlock.String() == v.lock.String() {
		return nil
	}
	if err := v.write(unlock); err != nil {
		return fmt.Errorf("certs: lock %s: %w", v.path, err)
	}
	v.lock = unlock
	return nil
}

func (v *Vault) write(unlock UnlockKey) error {
	text := v.key
	if unlock != nil {
		aead, err := chacha20poly1305.NewX(unlock)
		if err != nil {
			return ErrUnlockKey
		}
		if text, err = Seal(aead, v.key, []byte(vaultAAD)); err != nil {
			return err
		}
	}
	return writeFile(filepath.Dir(v.path), filepath.Base(v.path), text)
}

// AEAD encrypts with the data key.
func (v *Vault) AEAD() cipher.AEAD { return v.aead }

// Seal encrypts data under a random nonce, which stands in front.
func Seal(aead cipher.AEAD, data, aad []byte) ([]byte, error) {
	out := make([]byte, aead.NonceSize(), aead.NonceSize()+len(data)+aead.Overhead())
	if _, err := rand.Read(out); err != nil {
		return nil, err
	}
	return aead.Seal(out, out, data, aad), nil
}

// Unseal opens what Seal made.
func Unseal(aead cipher.AEAD, data, aad []byte) ([]byte, error) {
	if len(data) < aead.NonceSize() {
		return nil, errors.New("the sealed data is cut short")
	}
	return aead.Open(nil, data[:aead.NonceSize()], data[aead.NonceSize():], aad)
}
