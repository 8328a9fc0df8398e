package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/placement"
)

// Prepare implements agent.Runner.
func (r *Runner) Prepare(ctx context.Context, t agent.Task) (string, error) {
	resolv, err := r.resolvFile(t)
	if err != nil {
		return "", err
	}
	p, err := makePlan(t, resolv)
	if err != nil {
		return "", err
	}
	if err := r.admit(ctx, p); err != nil {
		return "", err
	}
	if err := r.addFiles(t, &p); err != nil {
		return "", err
	}
	for _, a := range t.Attachments {
		if err := r.ensureNetwork(ctx, a.Network); err != nil {
			return "", err
		}
	}
	id, err := r.makeFrom(ctx, p, t.RegistryAuth)
	return r.made(t, id, err)
}

// admit refuses what this node or its engine cannot do, or may not.
func (r *Runner) admit(ctx context.Context, p plan) error {
	h := p.Create.HostConfig
	if (h.Privileged || len(h.Devices) > 0) && !r.cfg.AllowPrivileged {
		return fmt.Errorf("this node runs no tasks with %s or %s; start its meshd with --allow-privileged", placement.LabelPrivileged, placement.LabelDevices)
	}
	wanted := needs(p.Create.Config, h)
	if !slices.ContainsFunc(wanted, func(n need) bool { return n.used }) {
		return nil
	}
	if _, err := r.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return plain(err)
	}
	return checkEngine(wanted, r.api.ClientVersion())
}

func (r *Runner) made(t agent.Task, id string, err error) (string, error) {
	if id != "" {
		r.remember(id, t.Task.ID)
	} else if err != nil && !errdefs.IsUnavailable(err) && !errors.Is(err, agent.ErrImage) {
		r.ended(t.Task.ID) // nobody will remove what there is no container for
	}
	return id, err
}

// make creates the container and connects it. It is not cut short: a container
// half made would be nobody's.
func (r *Runner) make(ctx context.Context, p plan) (string, error) {
	release, err := r.slot(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), engineTimeout)
	defer cancel()
	res, err := r.api.ContainerCreate(ctx, p.Create)
	if errdefs.IsConflict(err) {
		id, running, cerr := r.takeOver(ctx, p.Create)
		if cerr != nil || running {
			return id, cerr
		}
		res, err = r.api.ContainerCreate(ctx, p.Create)
	}
	if err != nil {
		return "", plain(err)
	}
	for _, c := range p.Connect {
		_, err := r.api.NetworkConnect(ctx, c.Network, client.NetworkConnectOptions{Container: res.ID, EndpointConfig: c.Settings})
		if err != nil {
			// Incomplete: the next try shall not find it.
			_, rerr := r.api.ContainerRemove(ctx, res.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			if rerr == nil {
				return "", plain(err)
			}
			return res.ID, plain(err)
		}
	}
	return res.ID, nil
}

// takeOver deals with a container that has the task's name already: one of this
// task that runs or ran is taken as it is, one that was only made, perhaps by
// half, makes way.
func (r *Runner) takeOver(ctx context.Context, o client.ContainerCreateOptions) (id string, used bool, err error) {
	c, err := r.api.ContainerInspect(ctx, o.Name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, plain(err)
	}
	if c.Container.Config == nil || c.Container.Config.Labels[labelTaskID] != o.Config.Labels[labelTaskID] {
		return "", false, fmt.Errorf("container %s exists and belongs to somebody else", o.Name)
	}
	if s := c.Container.State; s != nil && s.Status != container.StateCreated {
		return c.Container.ID, true, nil
	}
	_, err = r.api.ContainerRemove(ctx, c.Container.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return "", false, plain(err)
}

// resolvFile returns the file that the task gets as /etc/resolv.conf. Servers of
// the task's own are asked by the node's resolver, so that service names work
// for it, too; only its search list and options need a file of its own.
func (r *Runner) resolvFile(t agent.Task) (string, error) {
	if t.Task.Spec.ContainerSpec == nil || r.cfg.ResolvConf == "" || len(t.Attachments) == 0 {
		return r.cfg.ResolvConf, nil
	}
	d := t.Task.Spec.ContainerSpec.DNSConfig
	if d == nil || len(d.Search)+len(d.Options) == 0 {
		return r.cfg.ResolvConf, nil
	}
	base, err := os.ReadFile(r.cfg.ResolvConf)
	if err != nil {
		return "", fmt.Errorf("resolv.conf of the node: %w", err)
	}
	if err := os.MkdirAll(r.cfg.TaskDir, 0o755); err != nil {
		return "", fmt.Errorf("files of tasks: %w", err)
	}
	path := r.resolvPath(t.Task.ID)
	if err := os.WriteFile(path, []byte(resolvConf(string(base), d.Search, d.Options)), 0o644); err != nil {
		return "", fmt.Errorf("resolv.conf of the task: %w", err)
	}
	return path, nil
}

// resolvConf replaces the search list and the options of a resolv.conf(5); what
// the task does not set stays.
func resolvConf(base string, search, options []string) string {
	var out []string
	for l := range strings.Lines(base) {
		l = strings.TrimSpace(l)
		key, _, _ := strings.Cut(l, " ")
		if (key == "search" || key == "domain") && len(search) > 0 || key == "options" && len(options) > 0 {
			continue
		}
		out = append(out, l)
	}
	if len(search) > 0 {
		out = append(out, "search "+strings.Join(search, " "))
	}
	if len(options) > 0 {
		if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
			options = append([]string{"ndots:0"}, options...)
		}
		out = append(out, "options "+strings.Join(options, " "))
	}
	return strings.Join(out, "\n") + "\n"
}

func (r *Runner) resolvPath(taskID string) string {
	return filepath.Join(r.cfg.TaskDir, taskID+".resolv.conf")
}
