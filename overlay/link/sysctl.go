package link

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl reads a switch under /proc/sys, of the calling thread's network
// namespace for net/...; one that the kernel does not have reads as "".
func Sysctl(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", path))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// PutSysctl sets a switch.
func PutSysctl(path, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}

// quiet keeps a device from speaking for itself: no IPv6 addresses or solicitations.
func quiet(name string) error {
	return putIfPresent("net/ipv6/conf/"+name+"/disable_ipv6", "1")
}

// edge sets what the host side of a container's interface needs: our programs
// check who speaks, more exactly than the reverse path filter; a packet whose
// source a program made an address of the node's is no martian; and nobody
// answers ARP for others or teaches containers other routes.
func edge(name string) error {
	for key, value := range map[string]string{
		"rp_filter": "0", "accept_local": "1", "proxy_arp": "0", "send_redirects": "0", "accept_redirects": "0", "forwarding": "1",
	} {
		if err := putIfPresent("net/ipv4/conf/"+name+"/"+key, value); err != nil {
			return err
		}
	}
	return nil
}

func putIfPresent(path, value string) error {
	have, err := Sysctl(path)
	if err != nil || have == "" || have == value {
		return err
	}
	return PutSysctl(path, value)
}
