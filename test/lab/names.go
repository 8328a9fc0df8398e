package lab

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	runRoot   = "/run/meshd"
	stateRoot = "/var/lib/meshd-lab"
	netnsRoot = "/run/netns"

	// DefaultName is the lab that commands speak of when no name is given.
	DefaultName = "lab"
	// Client is the name of the machine outside of the cluster, for Exec and Partition.
	Client = "client"
	hub    = "hub"
)

// bpf is where the machine's own meshd keeps its BPF file system under /run/meshd.
var labName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,23}$`)

func checkName(name string) error {
	if !labName.MatchString(name) || name == "bpf" {
		return fmt.Errorf("%q is not a lab name: use 1 to 24 of a-z, 0-9 and -", name)
	}
	return nil
}

func netnsName(lab, node string) string { return lab + "-" + node }
func netnsPath(lab, node string) string { return filepath.Join(netnsRoot, netnsName(lab, node)) }

func runDir(lab, node string) string   { return filepath.Join(runRoot, lab, node) }
func stateDir(lab, node string) string { return filepath.Join(stateRoot, lab, node) }
func recordPath(lab string) string     { return filepath.Join(stateRoot, lab, "lab.json") }

func meshdSocket(lab, node string) string  { return filepath.Join(runDir(lab, node), "meshd.sock") }
func engineSocket(lab, node string) string { return filepath.Join(runDir(lab, node), "docker.sock") }
func initSocket(lab, node string) string   { return filepath.Join(runDir(lab, node), "init.sock") }

func containerdSocket(lab, node string) string {
	return filepath.Join(runDir(lab, node), "containerd.sock")
}

func cgroupParent(lab, node string) string { return "/meshd-" + lab + "/" + node }

// splitGroups turns "node1,node2" "node3" into groups.
func splitGroups(args []string) [][]string {
	groups := make([][]string, 0, len(args))
	for _, arg := range args {
		groups = append(groups, strings.Split(arg, ","))
	}
	return groups
}
