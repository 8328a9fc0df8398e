package certs

import (
	"strings"
	"testing"
)

// What is read as a token is that token, and nothing else is read.
func FuzzParseToken(f *testing.F) {
	whole := Token{Digest: strings.Repeat("0a", digestLen/2), Secret: strings.Repeat("z", secretLen)}.String()
	for _, seed := range []string{"", whole, " " + whole + "\n", whole[:len(whole)-1], strings.ToUpper(whole), whole + "x", "SWMTKN-1-", "SWMTKN-2" + whole[8:]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			if token != (Token{}) {
				t.Errorf("%q is refused and gives %+v", text, token)
			}
			return
		}
		if token.String() != strings.TrimSpace(text) || len(token.Digest) != digestLen || len(token.Secret) != secretLen {
			t.Errorf("%q is read as %q", text, token)
		}
		if again, err := ParseToken(token.String()); err != nil || !again.Equal(token) {
			t.Errorf("%q is not read again: %v", token, err)
		}
	})
}

func FuzzParseUnlockKey(f *testing.F) {
	whole := NewUnlockKey().String()
	for _, seed := range []string{"", whole, whole + "\n", whole[:20], whole[:len(whole)-1] + "/", unlockPrefix} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseUnlockKey(text)
		if err != nil || key == nil {
			return
		}
		if again, err := ParseUnlockKey(key.String()); err != nil || again.String() != key.String() {
			t.Errorf("%q is read as %q, and that as %q (%v)", text, key, again, err)
		}
	})
}
