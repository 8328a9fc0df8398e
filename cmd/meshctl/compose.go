package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	dockerloader "github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/schema"
	dockertypes "github.com/docker/cli/cli/compose/types"
	"go.yaml.in/yaml/v3"
)

// composeSource is the Compose files of one command.
type composeSource struct {
	names []string // "-" is stdin
	stack string
	raw   bool // leave variables as they are
	dir   string
	texts [][]byte
	stdin []byte
	// refusal is what docker's own reader says.
	refusal error
}

// read reads all files; none at all is for docker's command to refuse.
func (s *composeSource) read(stdin io.Reader) error {
	first := "."
	if len(s.names) > 0 && s.names[0] != "-" {
		first = filepath.Dir(s.names[0])
	}
	var err error
	if s.dir, err = filepath.Abs(first); err != nil {
		return err
	}
	for _, name := range s.names {
		var text []byte
		if name == "-" {
			text, err = io.ReadAll(stdin)
			s.stdin = text
		} else {
			text, err = os.ReadFile(name)
		}
		if err != nil {
			return err
		}
		s.texts = append(s.texts, text)
	}
	return nil
}

// dockerReads says whether docker's own reader takes the files, and nothing in them that it would leave out is for Swarm.
func (s *composeSource) dockerReads() bool {
	if len(s.names) == 0 {
		return true
	}
	details := dockertypes.ConfigDetails{WorkingDir: s.dir, Environment: environ()}
	for i, text := range s.texts {
		config, err := dockerloader.ParseYAML(text)
		if err != nil {
			s.refusal = err
			return false
		}
		if hasAdditions(config) {
			return false
		}
		details.ConfigFiles = append(details.ConfigFiles, dockertypes.ConfigFile{Filename: s.names[i], Config: config})
	}
	details.Version = schema.Version(details.ConfigFiles[0].Config)
	_, s.refusal = dockerloader.Load(details, func(o *dockerloader.Options) { o.SkipInterpolation = s.raw })
	return s.refusal == nil
}

// saysOldFormat is whether the first file names the format 3.x, so that docker's refusal is the one that helps.
func (s *composeSource) saysOldFormat() bool {
	config, err := dockerloader.ParseYAML(s.texts[0])
	version, _ := config["version"].(string)
	return err == nil && strings.HasPrefix(version, "3")
}

// project reads the files as the Compose Specification says.
func (s *composeSource) project(ctx context.Context) (*types.Project, error) {
	details := types.ConfigDetails{WorkingDir: s.dir, Environment: environ()}
	for i, text := range s.texts {
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: s.names[i], Content: text})
	}
	p, err := loader.LoadWithContext(ctx, details, loader.WithDiscardEnvFiles, func(o *loader.Options) {
		o.SetProjectName(loader.NormalizeProjectName("stack"+s.stack), true)
		o.SkipNormalization, o.SkipInterpolation = true, s.raw // what is not said is Swarm's to choose
		o.SkipConsistencyCheck = true                          // it asks for what only Compose needs
		o.ResolvePaths = true
	})
	if err != nil && s.refusal != nil && s.saysOldFormat() {
		return nil, s.refusal
	}
	return p, err
}

// reduced is a Compose project in the format 3.x.
type reduced struct {
	config map[string]any
	// ignored are the keys that mean nothing to Swarm.
	ignored []string
	more    additions
	memory  []*os.File
	// origins are what stood where a file in memory stands now.
	origins map[string]string
}

// reduce reads the files and keeps what the format 3.x has a place for.
func (s *composeSource) reduce(ctx context.Context) (*reduced, error) {
	p, err := s.project(ctx)
	if err != nil {
		return nil, err
	}
	text, err := p.MarshalYAML()
	if err != nil {
		return nil, err
	}
	r := &reduced{origins: map[string]string{}}
	if r.config, err = dockerloader.ParseYAML(text); err != nil {
		return nil, err
	}
	delete(r.config, "name") // the stack's is an argument
	r.config["version"] = "3.13"
	if err := r.convert(p); err != nil {
		return nil, errors.Join(err, r.close())
	}
	ignored := prune(r.config)
	for _, service := range services(r.config) {
		ignored = append(ignored, pruneUnsupported(service)...)
	}
	slices.Sort(ignored)
	r.ignored = slices.Compact(ignored)
	return r, nil
}

// services are those of a configuration, by name.
func services(config map[string]any) map[string]map[string]any {
	all := map[string]map[string]any{}
	named, _ := config["services"].(map[string]any)
	for name, service := range named {
		if service, ok := service.(map[string]any); ok {
			all[name] = service
		}
	}
	return all
}

// pruneUnsupported takes out what the format has and Swarm has not.
func pruneUnsupported(service map[string]any) (ignored []string) {
	for _, key := range append(slices.Sorted(maps.Keys(dockertypes.DeprecatedProperties)), dockertypes.UnsupportedProperties...) {
		if _, ok := service[key]; ok {
			delete(service, key)
			ignored = append(ignored, key)
		}
	}
	for _, key := range fixedAddresses {
		for _, network := range networksWith(service, key) {
			delete(network, key)
			ignored = append(ignored, "networks."+key)
		}
	}
	return ignored
}

// fixedAddresses are what docker's reader has a place for below a service's networks, and leaves out without a word: replicas cannot share one.
var fixedAddresses = []string{"ipv4_address", "ipv6_address"}

// networksWith are those of a service's networks that have a key.
func networksWith(service map[string]any, key string) (found []map[string]any) {
	for name := range at(service, "networks") {
		network := at(service, "networks", name)
		if _, has := network[key]; has {
			found = append(found, network)
		}
	}
	return found
}

// yaml is the configuration as docker's reader takes it; escaped, since it looks for variables again.
func (r *reduced) yaml(escaped bool) ([]byte, error) {
	if escaped {
		r.config = escape(r.config).(map[string]any)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	err := enc.Encode(r.config)
	return out.Bytes(), err
}

func escape(value any) any {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, "$", "$$")
	case []any:
		for i := range v {
			v[i] = escape(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = escape(v[key])
		}
	}
	return value
}

// close ends what lives in memory only.
func (r *reduced) close() error {
	var errs []error
	for _, f := range r.memory {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// restore puts back what stood in the files where docker's reader was given files in memory.
func (r *reduced) restore(text string) string {
	for path, origin := range r.origins {
		text = strings.ReplaceAll(text, "file: "+path+"\n", origin+"\n")
	}
	return text
}

// unfit is a value that the format 3.x cannot say.
func unfit(service, key string, value any) error {
	return fmt.Errorf("services.%s.%s: Swarm cannot do %v", service, key, value)
}
