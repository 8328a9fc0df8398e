package nft

import (
	"slices"
	"strings"
	"testing"
)

func TestClosedChains(t *testing.T) {
	f := newFirewall(t, false)
	const hook = "type filter hook input priority 0; policy"
	for _, chain := range []string{
		"ip a open { " + hook + " accept; tcp dport 22 accept; }", "ip a shut { " + hook + " drop; }",
		"inet b firewalld { " + hook + " accept; ct state established accept; iifname lo accept; log; reject with icmpx admin-prohibited; }",
		"inet b some { " + hook + " accept; tcp dport 22 drop; }", "inet b counted { " + hook + " accept; counter drop; }",
		"inet b out { type filter hook output priority 0; policy drop; }",
	} {
		family, rest, _ := strings.Cut(chain, " ")
		table, body, _ := strings.Cut(rest, " ")
		f.sh("nft", "table "+family+" "+table+" { chain "+body+"; }")
	}
	got, err := Closed()
	if want := []string{"inet b counted", "inet b firewalld", "ip a shut"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("closed are %q, %v; want %q", got, err, want)
	}
}
