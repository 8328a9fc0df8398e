package wireguard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAKeyringFollowsEpochs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "keys.json")
	open := func() *Keyring {
		t.Helper()
		r, err := OpenKeyring(path, 51820)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	follow := func(r *Keyring, epoch uint64, want ...uint64) []PublicKey {
		t.Helper()
		if _, err := r.Follow(epoch, time.Now()); err != nil {
			t.Fatal(err)
		}
		keys := open().Public() // as the next process finds them
		if len(keys) != len(want) {
			t.Fatalf("epoch %d: %v, want epochs %v", epoch, keys, want)
		}
		for i, k := range keys {
			if k.Epoch != want[i] || k.Port != 51820+uint16(k.Epoch%2) || k != r.Public()[i] {
				t.Fatalf("epoch %d: %v, want epochs %v", epoch, keys, want)
			}
		}
		return keys
	}
	r := open()
	first := follow(r, 6, 6)
	if again := follow(r, 6, 6); again[0] != first[0] {
		t.Error("another key for the same epoch")
	}
	both := follow(r, 7, 7, 6)
	if both[1] != first[0] || both[0].Key == first[0].Key {
		t.Errorf("beside each other: %v, before: %v", both, first)
	}
	if _, rotating := r.Rotating(); !rotating {
		t.Error("two keys, and no rotation")
	}
	if err := r.Retire(); err != nil {
		t.Fatal(err)
	}
	follow(r, 7, 7)
	// Their devices would be the same, so the older one goes; and back, as after a restored state.
	follow(r, 9, 9)
	follow(r, 10, 10, 9)
	follow(r, 9, 9)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	if err := r.Forget(); err != nil || len(r.Public()) != 0 || len(open().Public()) != 0 {
		t.Errorf("not forgotten: %v", err)
	}
}

func TestADamagedKeyringSaysSo(t *testing.T) {
	for _, content := range []string{"{", `[{"Epoch":1,"Private":"c2hvcnQ="}]`} {
		path := filepath.Join(t.TempDir(), "keys.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeyring(path, 1); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestDevicesHaveTheirKeys(t *testing.T) {
	r := &Keyring{port: 7000}
	for _, epoch := range []uint64{3, 4} {
		if _, err := r.Follow(epoch, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	d := r.Devices()
	if len(d) != 2 || d[0].Name != "mesh-wg0" || d[1].Name != "mesh-wg1" || d[0].Port != 7000 || d[1].Port != 7001 || d[0].Private == d[1].Private {
		t.Errorf("%+v", d)
	}
}
