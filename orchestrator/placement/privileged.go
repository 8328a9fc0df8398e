package placement

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// Labels of a container (not of a service: tasks get a change of them by an
// update) that ask for more than Swarm can give.
const (
	LabelPrivileged = "mesh.privileged"
	LabelDevices    = "mesh.devices"
)

// LabelAllowed is what a node's engine labels say when it runs such tasks.
const LabelAllowed = "mesh.allow-privileged"

// Permitted says whether the node allows its tasks what they ask for.
func (r Rules) Permitted(n *store.Node) bool {
	return !r.Privileged || n.Description.Engine.Labels[LabelAllowed] == "true"
}

// Device is a device of the node that a container gets.
type Device struct {
	Host, Container string
	// Access is a selection of r, w and m (to make its node).
	Access string
}

// Power is what the labels of a container ask for.
type Power struct {
	Privileged bool
	Devices    []Device
}

// Any says that not every node will do.
func (p Power) Any() bool { return p.Privileged || len(p.Devices) > 0 }

// PowerOf reads a container's labels. Errors name the label.
func PowerOf(c *swarm.ContainerSpec) (Power, error) {
	var p Power
	if c == nil {
		return p, nil
	}
	if v, ok := c.Labels[LabelPrivileged]; ok {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return p, fmt.Errorf("container label %s: %q is neither true nor false", LabelPrivileged, v)
		}
		p.Privileged = on
	}
	v, ok := c.Labels[LabelDevices]
	if !ok {
		return p, nil
	}
	for _, text := range strings.Split(v, ",") {
		d, err := parseDevice(strings.TrimSpace(text))
		if err != nil {
			return p, fmt.Errorf("container label %s: %w", LabelDevices, err)
		}
		p.Devices = append(p.Devices, d)
	}
	return p, nil
}

// parseDevice reads HOST[:CONTAINER[:ACCESS]], as docker run's --device.
func parseDevice(text string) (Device, error) {
	fields := strings.Split(text, ":")
	d := Device{Host: fields[0], Container: fields[0], Access: "rwm"}
	if len(fields) > 1 {
		d.Container = fields[1]
	}
	if len(fields) > 2 {
		d.Access = fields[2]
	}
	switch {
	case len(fields) > 3, !path.IsAbs(d.Host), !path.IsAbs(d.Container):
		return d, fmt.Errorf("%q is not HOST-PATH[:CONTAINER-PATH[:rwm]]", text)
	case d.Access == "" || strings.Trim(d.Access, "rwm") != "":
		return d, fmt.Errorf("%q: access %q is no selection of r, w and m", text, d.Access)
	}
	return d, nil
}
