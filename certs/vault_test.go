package certs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVault(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenVault(dir, nil, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a vault that is not there: %v", err)
	}
	v, err := OpenVault(dir, nil, true)
	must(t, err)
	sealed, err := Seal(v.AEAD(), []byte("secret"), nil)
	must(t, err)
	opens := func(unlock UnlockKey) error {
		t.Helper()
		again, err := OpenVault(dir, unlock, true)
		if err != nil {
			return err
		}
		if got, err := Unseal(again.AEAD(), sealed, nil); err != nil || string(got) != "secret" {
			t.Errorf("read %q, %v", got, err)
		}
		return nil
	}
	must(t, opens(nil))
	first, second := NewUnlockKey(), NewUnlockKey()
	must(t, v.Lock(first))
	text, err := os.ReadFile(filepath.Join(dir, keyFile))
	must(t, err)
	if bytes.Contains(text, v.key) {
		t.Error("the data key is in the clear")
	}
	must(t, opens(first))
	if err := opens(nil); !errors.Is(err, ErrLocked) {
		t.Errorf("without unlock key: %v", err)
	}
	if err := opens(second); !errors.Is(err, ErrUnlockKey) {
		t.Errorf("with another unlock key: %v", err)
	}
	must(t, v.Lock(second))
	must(t, opens(second))
	if err := opens(first); !errors.Is(err, ErrUnlockKey) {
		t.Errorf("with the former unlock key: %v", err)
	}
	must(t, v.Lock(nil))
	must(t, opens(nil))
	must(t, os.WriteFile(filepath.Join(dir, keyFile), text[:40], 0o600))
	if err := opens(first); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a key that is cut short: %v", err)
	}
}

func TestUnlockKeyText(t *testing.T) {
	k := NewUnlockKey()
	got, err := ParseUnlockKey(" " + k.String() + "\n")
	if err != nil || !bytes.Equal(got, k) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ParseUnlockKey(""); got != nil || err != nil {
		t.Errorf("no text is %v, %v", got, err)
	}
	for _, bad := range []string{"x", "SWMKEY-1-", k.String()[1:], k.String() + "A", strings.Replace(k.String(), "1", "2", 1)} {
		if _, err := ParseUnlockKey(bad); !errors.Is(err, ErrUnlockKey) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A manager's private key is readable with its data key only, whatever is renewed.
func TestPrivateKeyInTheVault(t *testing.T) {
	ca := newCA(t)
	k := newKeeper(t, ca, manager("n1"), 0)
	v, err := OpenVault(t.TempDir(), nil, true)
	must(t, err)
	must(t, k.Keep(v))
	renewed := newKeeper(t, ca, manager("n1"), 0).held.Load()
	must(t, k.Replace(renewed.keyPEM, encodeCert(renewed.leaf.Raw), renewed.rootPEM))
	text, err := os.ReadFile(filepath.Join(k.dir, nodeFile))
	must(t, err)
	if strings.Contains(string(text), "BEGIN "+blockKey) {
		t.Error("the private key is in the clear")
	}
	if _, err := Load(k.dir, nil); err == nil {
		t.Error("loaded without the vault")
	}
	again, err := Load(k.dir, v)
	must(t, err)
	if !bytes.Equal(again.held.Load().keyPEM, renewed.keyPEM) {
		t.Error("another key was loaded")
	}
	must(t, k.Keep(nil))
	_, err = Load(k.dir, nil)
	must(t, err)
}
