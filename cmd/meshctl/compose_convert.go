package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// moved are keys that the Specification has on the service itself, and the format 3.x below deploy.
var moved = map[string][]string{
	"scale":           {"replicas"},
	"cpus":            {"resources", "limits", "cpus"},
	"mem_limit":       {"resources", "limits", "memory"},
	"pids_limit":      {"resources", "limits", "pids"},
	"mem_reservation": {"resources", "reservations", "memory"},
}

// additions are what Swarm has and the format 3.x has not: what they do to the specs that docker's command makes.
type additions struct {
	services map[string]func(*swarm.ServiceSpec)
	networks map[string]func(*client.NetworkCreateOptions)
}

// added are the service's keys that become additions. Docker's own reader ignores security_opt and oom_score_adj, and refuses the others.
var added = []string{"group_add", "dns_opt", "security_opt", "oom_score_adj", "memswap_limit", "mem_swappiness"}

// hasAdditions says whether a file has a key that docker's reader would leave out.
func hasAdditions(config map[string]any) bool {
	for _, service := range services(config) {
		for _, key := range added {
			if _, ok := service[key]; ok {
				return true
			}
		}
		for _, key := range fixedAddresses {
			if len(networksWith(service, key)) > 0 {
				return true
			}
		}
	}
	return false
}

// convert says in the words of the format 3.x what it can say.
func (r *reduced) convert(p *types.Project) error {
	r.more = additions{map[string]func(*swarm.ServiceSpec){}, map[string]func(*client.NetworkCreateOptions){}}
	for name, service := range services(r.config) {
		if err := convertService(name, service); err != nil {
			return err
		}
		if err := r.addService(p.Services[name], service); err != nil {
			return err
		}
	}
	for name, n := range p.Networks {
		if err := r.addNetwork(name, n); err != nil {
			return err
		}
	}
	for name, s := range p.Secrets {
		if err := r.inMemory("secrets", name, types.FileObjectConfig(s)); err != nil {
			return err
		}
	}
	for name, c := range p.Configs {
		if err := r.inMemory("configs", name, types.FileObjectConfig(c)); err != nil {
			return err
		}
	}
	return nil
}

func convertService(name string, service map[string]any) error {
	for key, path := range moved {
		if value, ok := service[key]; ok {
			delete(service, key)
			deploy := child(service, "deploy")
			for _, step := range path[:len(path)-1] {
				deploy = child(deploy, step)
			}
			if _, said := deploy[path[len(path)-1]]; !said {
				deploy[path[len(path)-1]] = value
			}
		}
	}
	for _, kind := range []string{"limits", "reservations"} {
		if some := at(service, "deploy", "resources", kind); some["cpus"] != nil {
			some["cpus"] = fmt.Sprint(some["cpus"])
		}
	}
	if needs, ok := service["depends_on"].(map[string]any); ok {
		service["depends_on"] = sortedKeys(needs)
	}
	for _, key := range []string{"secrets", "configs"} {
		if err := eachMap(service[key], func(ref map[string]any) error { return number(ref, "mode", 8) }); err != nil {
			return unfit(name, key+".mode", err)
		}
	}
	if err := eachMap(service["ports"], func(port map[string]any) error { return number(port, "published", 10) }); err != nil {
		return unfit(name, "ports.published", err)
	}
	return eachMap(service["volumes"], func(v map[string]any) error {
		delete(at(v, "bind"), "create_host_path") // compose-go's default; Swarm asks for folders that are there
		tmpfs := at(v, "tmpfs")
		if size, ok := tmpfs["size"].(string); ok {
			bytes, err := units.RAMInBytes(size)
			tmpfs["size"] = bytes
			return err
		}
		return nil
	})
}

// at is the mapping at a path, nil if there is none.
func at(m map[string]any, path ...string) map[string]any {
	for _, key := range path {
		m, _ = m[key].(map[string]any)
	}
	return m
}

// child is the mapping below a key, which is made if there is none.
func child(parent map[string]any, key string) map[string]any {
	if it, ok := parent[key].(map[string]any); ok {
		return it
	}
	it := map[string]any{}
	parent[key] = it
	return it
}

func sortedKeys(m map[string]any) []any {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	out := make([]any, len(keys))
	for i := range keys {
		out[i] = keys[i]
	}
	return out
}

func eachMap(list any, do func(map[string]any) error) error {
	all, _ := list.([]any)
	for _, one := range all {
		if m, ok := one.(map[string]any); ok {
			if err := do(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// number makes a number of what compose-go writes as a string.
func number(m map[string]any, key string, base int) error {
	text, ok := m[key].(string)
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(text, base, 32)
	if err != nil {
		return fmt.Errorf("%q: one number is needed", text)
	}
	m[key] = int(n)
	return nil
}

func (r *reduced) addService(s types.ServiceConfig, config map[string]any) error {
	privileges, err := privilegesOf(s)
	if err != nil {
		return err
	}
	for _, key := range added {
		delete(config, key)
	}
	r.more.services[s.Name] = func(spec *swarm.ServiceSpec) {
		c := spec.TaskTemplate.ContainerSpec
		c.Groups, c.OomScoreAdj, c.Privileges = s.GroupAdd, s.OomScoreAdj, privileges(c.Privileges)
		if len(s.DNSOpts) > 0 {
			if c.DNSConfig == nil {
				c.DNSConfig = &swarm.DNSConfig{}
			}
			c.DNSConfig.Options = s.DNSOpts
		}
		if s.MemSwapLimit != 0 || s.MemSwappiness != 0 {
			if spec.TaskTemplate.Resources == nil {
				spec.TaskTemplate.Resources = &swarm.ResourceRequirements{}
			}
			spec.TaskTemplate.Resources.SwapBytes = swapOf(s)
			spec.TaskTemplate.Resources.MemorySwappiness = set(int64(s.MemSwappiness))
		}
	}
	return nil
}

// set points at what was said; zero was not.
func set(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// swapOf is the swap beside the memory: Compose's memswap_limit is both together.
func swapOf(s types.ServiceConfig) *int64 {
	limit := s.MemLimit
	if s.Deploy != nil && s.Deploy.Resources.Limits != nil && limit == 0 {
		limit = s.Deploy.Resources.Limits.MemoryBytes
	}
	if s.MemSwapLimit > 0 {
		return new(int64(max(0, s.MemSwapLimit-limit)))
	}
	return set(int64(s.MemSwapLimit))
}

// privilegesOf reads security_opt.
func privilegesOf(s types.ServiceConfig) (func(*swarm.Privileges) *swarm.Privileges, error) {
	p := swarm.Privileges{}
	for _, opt := range s.SecurityOpt {
		key, value, _ := strings.Cut(strings.Replace(opt, ":", "=", 1), "=")
		switch {
		case key == "no-new-privileges" && value != "false":
			p.NoNewPrivileges = true
		case key == "no-new-privileges":
		case key == "apparmor" && value == "unconfined":
			p.AppArmor = &swarm.AppArmorOpts{Mode: swarm.AppArmorModeDisabled}
		case key == "seccomp" && value == "unconfined":
			p.Seccomp = &swarm.SeccompOpts{Mode: swarm.SeccompModeUnconfined}
		case key == "seccomp":
			profile, err := os.ReadFile(value)
			if err != nil {
				return nil, fmt.Errorf("services.%s.security_opt: %w", s.Name, err)
			}
			p.Seccomp = &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom, Profile: profile}
		default:
			return nil, unfit(s.Name, "security_opt", opt)
		}
	}
	return func(have *swarm.Privileges) *swarm.Privileges {
		if len(s.SecurityOpt) == 0 {
			return have
		}
		if have != nil {
			p.CredentialSpec, p.SELinuxContext = have.CredentialSpec, have.SELinuxContext
		}
		return &p
	}, nil
}

func (r *reduced) addNetwork(key string, n types.NetworkConfig) error {
	pools := make([]network.IPAMConfig, len(n.Ipam.Config))
	for i, pool := range n.Ipam.Config {
		var errs [3]error
		pools[i].Subnet, errs[0] = optional(pool.Subnet, netip.ParsePrefix)
		pools[i].IPRange, errs[1] = optional(pool.IPRange, netip.ParsePrefix)
		pools[i].Gateway, errs[2] = optional(pool.Gateway, netip.ParseAddr)
		if err := errors.Join(errs[:]...); err != nil {
			return fmt.Errorf("networks.%s.ipam: %w", key, err)
		}
	}
	config := at(r.config, "networks", key)
	delete(config, "enable_ipv6")
	delete(config, "enable_ipv4")
	_ = eachMap(at(config, "ipam")["config"], func(pool map[string]any) error { // it returns no error
		delete(pool, "ip_range")
		delete(pool, "gateway")
		return nil
	})
	name := key
	if n.Name != "" {
		name = n.Name
	}
	r.more.networks[name] = func(o *client.NetworkCreateOptions) {
		o.EnableIPv4, o.EnableIPv6 = n.EnableIPv4, n.EnableIPv6
		if len(pools) > 0 {
			o.IPAM = &network.IPAM{Driver: n.Ipam.Driver, Config: pools}
		}
	}
	return nil
}

// optional parses what was said.
func optional[T any](text string, parse func(string) (T, error)) (value T, err error) {
	if text == "" {
		return value, nil
	}
	return parse(text)
}

// inMemory gives docker's reader, which knows files only, what stands in the environment or in the Compose file itself, without a disk
// that would keep a secret.
func (r *reduced) inMemory(kind, name string, o types.FileObjectConfig) error {
	data, origin := o.Content, "content: "+quoted(o.Content)
	if o.Environment != "" {
		value, ok := os.LookupEnv(o.Environment)
		if !ok {
			return fmt.Errorf("%s.%s: the environment has no %s", kind, name, o.Environment)
		}
		data, origin = value, "environment: "+quoted(o.Environment)
	} else if o.Content == "" {
		return nil
	}
	fd, err := unix.MemfdCreate(kind+"."+name, unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), kind+"."+name)
	r.memory = append(r.memory, file)
	if _, err := file.WriteString(data); err != nil {
		return err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	r.origins[path] = origin
	config := at(r.config, kind, name)
	delete(config, "environment")
	delete(config, "content")
	config["file"] = path
	return nil
}

// quoted is a string as YAML and JSON have it.
func quoted(text string) string {
	out, _ := json.Marshal(text) // strings can always be
	return string(out)
}
