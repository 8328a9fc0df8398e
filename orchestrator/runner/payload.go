package runner

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/placeholder"
)

// maxPayload bounds what a template may grow to, in bytes.
const maxPayload = 2 << 20

// key names a secret or a config of a task by its target.
type key struct {
	secret bool
	target string
}

func secretKey(target string) key { return key{true, target} }
func configKey(target string) key { return key{false, target} }

func (k key) kind() string {
	if k.secret {
		return "secret"
	}
	return "config"
}

// payload is the data of a secret or a config.
type payload struct {
	name     string
	data     []byte
	template bool
}

// payloads are all secrets and configs of one task, with what their templates
// can refer to.
type payloads struct {
	placeholders
	env  map[string]string
	data map[key]payload
}

// payloadsOf joins the references of a task with what the managers sent for them.
func payloadsOf(t agent.Task) (payloads, error) {
	p := payloads{placeholders: placeholdersOf(t), data: map[key]payload{}}
	spec, err := expandSpec(*t.Task.Spec.ContainerSpec, p.placeholders)
	if err != nil {
		return p, err
	}
	p.env = environment(spec.Env)
	for _, ref := range spec.Secrets {
		i := slices.IndexFunc(t.Secrets, func(s swarm.Secret) bool { return s.ID == ref.SecretID })
		switch {
		case i < 0:
			return p, fmt.Errorf("secret %s does not exist any more", ref.SecretName)
		case len(t.Secrets[i].Spec.Data) == 0:
			return p, yetToCome(ref.SecretName)
		case ref.File != nil:
			s := t.Secrets[i].Spec
			p.data[secretKey(ref.File.Name)] = payload{ref.SecretName, s.Data, s.Templating != nil}
		}
	}
	for _, ref := range spec.Configs {
		i := slices.IndexFunc(t.Configs, func(c swarm.Config) bool { return c.ID == ref.ConfigID })
		switch {
		case i < 0:
			return p, fmt.Errorf("config %s does not exist any more", ref.ConfigName)
		case ref.File != nil:
			c := t.Configs[i].Spec
			p.data[configKey(ref.File.Name)] = payload{ref.ConfigName, c.Data, c.Templating != nil}
		}
	}
	return p, nil
}

func environment(env []string) map[string]string {
	out := map[string]string{}
	for _, e := range env {
		if k, v, found := strings.Cut(e, "="); found {
			out[k] = v
		}
	}
	return out
}

// file is the secret or config of a target, its template filled in.
func (p payloads) file(k key, dir string) (file, error) {
	f := file{target: targetPath(k.target, dir)}
	have := p.data[k]
	f.data = have.data
	if !have.template {
		return f, nil
	}
	out, err := p.fill(have)
	if err != nil {
		return f, fmt.Errorf("%s %s: %w", k.kind(), have.name, quiet(err))
	}
	f.data = out
	return f, nil
}

// fill expands a template. What it inserts of other secrets and configs is not
// expanded again, so that none can go round in circles.
func (p payloads) fill(have payload) ([]byte, error) {
	other := func(k func(string) key) func(string) (string, error) {
		return func(target string) (string, error) {
			found, ok := p.data[k(target)]
			if !ok {
				return "", fmt.Errorf("the task has no %s with the target %q", k("").kind(), target)
			}
			return string(found.data), nil
		}
	}
	funcs := placeholder.Functions()
	maps.Copy(funcs, template.FuncMap{
		"secret": other(secretKey), "config": other(configKey),
		"env": func(name string) (string, error) {
			v, ok := p.env[name]
			if !ok {
				return "", fmt.Errorf("the task has no environment variable %q", name)
			}
			return v, nil
		},
	})
	t, err := template.New("").Option("missingkey=error").Funcs(funcs).Parse(string(have.data))
	if err != nil {
		return nil, err
	}
	var out bounded
	if err := t.Execute(&out, p.Values); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

var errTooLong = fmt.Errorf("its template gives more than %d bytes", maxPayload)

// bounded is a buffer that does not grow beyond maxPayload.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(data []byte) (int, error) {
	if b.Len()+len(data) > maxPayload {
		return 0, errTooLong
	}
	return b.Buffer.Write(data)
}

var templateLine = regexp.MustCompile(`^template: :(\d+)`)

// quiet takes the text of a template out of its errors, since that may be a
// secret; the line is left, and what our own functions have to say.
func quiet(err error) error {
	if errors.Is(err, errTooLong) {
		return errTooLong
	}
	line := "?"
	if m := templateLine.FindStringSubmatch(err.Error()); m != nil {
		line = m[1]
	}
	var run template.ExecError
	if errors.As(err, &run) {
		if cause := errors.Unwrap(run.Err); cause != nil {
			return fmt.Errorf("its template fails in line %s: %w", line, cause)
		}
		return fmt.Errorf("its template fails in line %s", line)
	}
	return fmt.Errorf("its template cannot be read, line %s", line)
}
