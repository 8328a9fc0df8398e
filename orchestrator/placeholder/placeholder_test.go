package placeholder

import (
	"strings"
	"testing"
)

func values() Values {
	var v Values
	v.Service.ID, v.Service.Name, v.Service.Labels = "s1", "web", map[string]string{"zone": "B"}
	v.Node.ID, v.Node.Hostname, v.Node.Platform.OS = "n1", "node1", "linux"
	v.Task.ID, v.Task.Name, v.Task.Slot = "t1", "web.2.t1", "2"
	return v
}

func TestExpand(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "",
		"plain":                             "plain",
		"{{.Node.Hostname}}-{{.Task.Slot}}": "node1-2",
		"{{.Service.Name}}.{{ .Task.ID }}":  "web.t1",
		`{{index .Service.Labels "zone" | lower}}`:            "b",
		"{{upper .Node.Platform.OS}}{{/* says nothing */}}-x": "LINUX-x",
	} {
		for name, expand := range map[string]func(string, Values) (string, error){"any": Expand, "plain": ExpandPlain} {
			if got, err := expand(text, values()); err != nil || got != want {
				t.Errorf("%s: %q gives %q, %v; want %q", name, text, got, err, want)
			}
		}
	}
}

func TestBrokenTemplatesAreErrors(t *testing.T) {
	for _, text := range []string{"{{", "{{.Nothing}}", "{{.Service.Labels.missing}}", "{{nosuch .Task.ID}}"} {
		for name, expand := range map[string]func(string, Values) (string, error){"any": Expand, "plain": ExpandPlain} {
			if got, err := expand(text, values()); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q gives %q, %v; want an error that shows it", name, text, got, err)
			}
		}
	}
}

// What a host name says is read on every manager: nothing in it may cost more than its length.
func TestPlainTakesValuesOnly(t *testing.T) {
	for _, text := range []string{
		`{{printf "%999999999d" 1}}`,
		`{{range .Service.Labels}}x{{end}}`,
		`{{if .Task.ID}}x{{end}}`,
		`{{with .Task}}{{.ID}}{{end}}`,
		`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`,
		`{{define "a"}}x{{end}}x`,
		`{{$x := .Task.ID}}{{$x}}`,
		`{{html (printf "%999999999d" 1)}}`,
	} {
		if got, err := ExpandPlain(text, values()); err == nil {
			t.Errorf("%q gives %d bytes, want an error", text, len(got))
		}
	}
}
