package consensus

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/chacha20poly1305"
)

// keyFile holds the data key of log and snapshots.
const keyFile = "raft.key"

// loadKey reads the data key; create makes one if there is none. A key that is
// missing while data is there must not be replaced: the data would be lost.
func loadKey(dir string, create bool) (cipher.AEAD, error) {
	path := filepath.Join(dir, keyFile)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		key, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("consensus: the key of the raft log: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("consensus: the key of the raft log in %s: %w", path, err)
	}
	return aead, nil
}

func makeKey(path string) ([]byte, error) {
	key := make([]byte, chacha20poly1305.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if err := renameio.WriteFile(path, key, 0o600); err != nil {
		return nil, err
	}
	return key, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// seal encrypts data under a random nonce, which stands in front.
func seal(aead cipher.AEAD, data, aad []byte) ([]byte, error) {
	out := make([]byte, aead.NonceSize(), aead.NonceSize()+len(data)+aead.Overhead())
	if _, err := rand.Read(out); err != nil {
		return nil, err
	}
	return aead.Seal(out, out, data, aad), nil
}

func unseal(aead cipher.AEAD, data, aad []byte) ([]byte, error) {
	if len(data) < aead.NonceSize() {
		return nil, errors.New("the sealed data is cut short")
	}
	return aead.Open(nil, data[:aead.NonceSize()], data[aead.NonceSize():], aad)
}
