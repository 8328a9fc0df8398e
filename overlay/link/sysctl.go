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

// Forwarding6 is the switch that lets the node forward IPv6. There is none per
// device (before Linux 6.17).
const Forwarding6 = "net/ipv6/conf/all/forwarding"

// PutForwarding6 switches it on. A node that forwards ignores router
// advertisements, by which it may have its own address and default route, unless
// accept_ra is 2 (kernel's ip-sysctl.rst): so that is set first where it was 1.
func PutForwarding6() error {
	devices, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, file := range devices {
		path, err := filepath.Rel("/proc/sys", file)
		if err != nil {
			return err
		}
		have, err := Sysctl(path)
		if err != nil || have != "1" {
			continue // gone meanwhile, or not listening
		}
		if err := PutSysctl(path, "2"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return PutSysctl(Forwarding6, "1")
}

// speak6 lets a device of ours have IPv6 addresses and routes, but none that we
// did not give it.
func speak6(name string) error {
	for _, s := range []struct{ key, value string }{{"addr_gen_mode", "1"}, {"accept_ra", "0"}, {"accept_redirects", "0"}, {"disable_ipv6", "0"}} {
		if err := putIfPresent("net/ipv6/conf/"+name+"/"+s.key, s.value); err != nil {
			return err
		}
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

// forwards sets what the tunnel device needs where the kernel forwards: the mark, which
// stands for the node that a packet comes from, counts in the question where its sender is.
func forwards(name string) error {
	return putIfPresent("net/ipv4/conf/"+name+"/src_valid_mark", "1")
}

func putIfPresent(path, value string) error {
	have, err := Sysctl(path)
	if err != nil || have == "" || have == value {
		return err
	}
	return PutSysctl(path, value)
}
