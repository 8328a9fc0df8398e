package wireguard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Key is a public key, or in PrivateKey a secret one: 32 bytes of Curve25519.
type Key [32]byte

// String is the key in base64, as every tool of WireGuard writes it.
func (k Key) String() string { return wgtypes.Key(k).String() }

// PublicKey is what a node tells the others of one of its keys.
type PublicKey struct {
	Epoch uint64
	Key   Key
	// Port is the UDP port of the key's device.
	Port uint16
}

// privateKey is one key as it is kept on disk.
type privateKey struct {
	Epoch uint64
	// Private is in base64.
	Private string
	// Since is when the key was made.
	Since time.Time
}

func (k privateKey) parse() (wgtypes.Key, error) { return wgtypes.ParseKey(k.Private) }

// Keyring holds a node's own keys, newest first: one, or two during a rotation. They
// never leave it but for a device of this machine. It has one user at a time.
type Keyring struct {
	path string
	// port is that of even epochs; odd ones have the next.
	port uint16
	keys []privateKey
}

// OpenKeyring reads the keys in a file, which need not be there.
func OpenKeyring(path string, port uint16) (*Keyring, error) {
	r := &Keyring{path: path, port: port}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r.keys)
	}
	for _, k := range r.keys {
		if err == nil {
			_, err = k.parse()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("this node's WireGuard keys in %s (delete the file to have new ones): %w", path, err)
	}
	return r, nil
}

// Follow makes a key for an epoch if there is none, and keeps one other beside it
// until Retire.
func (r *Keyring) Follow(epoch uint64, now time.Time) (changed bool, err error) {
	if len(r.keys) > 0 && r.keys[0].Epoch == epoch {
		return false, nil
	}
	own := slices.IndexFunc(r.keys, func(k privateKey) bool { return k.Epoch == epoch })
	if own >= 0 { // the managers were put back to an older state
		return true, r.keep([]privateKey{r.keys[own]})
	}
	made, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return false, fmt.Errorf("make a WireGuard key: %w", err)
	}
	keys := []privateKey{{Epoch: epoch, Private: made.String(), Since: now.UTC()}}
	if len(r.keys) > 0 && r.keys[0].Epoch%slots != epoch%slots { // else their devices would be the same
		keys = append(keys, r.keys[0])
	}
	return true, r.keep(keys)
}

// Retire forgets all keys but the newest.
func (r *Keyring) Retire() error {
	if len(r.keys) < 2 {
		return nil
	}
	return r.keep(r.keys[:1:1])
}

// Forget deletes all keys: the node is in no cluster.
func (r *Keyring) Forget() error {
	if r.keys = nil; r.path == "" {
		return nil
	}
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (r *Keyring) keep(keys []privateKey) error {
	data, err := json.MarshalIndent(keys, "", "  ")
	if err == nil && r.path != "" {
		if err = os.MkdirAll(filepath.Dir(r.path), 0o700); err == nil {
			err = renameio.WriteFile(r.path, data, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("keep this node's WireGuard keys: %w", err)
	}
	r.keys = keys
	return nil
}

// Rotating says since when there are two keys.
func (r *Keyring) Rotating() (since time.Time, yes bool) {
	if len(r.keys) < 2 {
		return time.Time{}, false
	}
	return r.keys[0].Since, true
}

// Public are the keys as others know them, newest first.
func (r *Keyring) Public() []PublicKey {
	var out []PublicKey
	for _, k := range r.keys {
		private, _ := k.parse() // checked when it was read
		out = append(out, PublicKey{Epoch: k.Epoch, Key: Key(private.PublicKey()), Port: r.portOf(k.Epoch)})
	}
	return out
}

// Devices are the keys' devices without peers, newest first.
func (r *Keyring) Devices() []Device {
	var out []Device
	for _, k := range r.keys {
		private, _ := k.parse()
		out = append(out, Device{Name: DeviceName(k.Epoch), Epoch: k.Epoch, Private: Key(private), Port: r.portOf(k.Epoch), Peers: map[Key]Peer{}})
	}
	return out
}

func (r *Keyring) portOf(epoch uint64) uint16 { return r.port + uint16(epoch%slots) }
