// Package docs checks what the documents promise: that the commands they show exist, with their flags, and that what they point at is there.
package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// documents are all that a reader may copy commands from; the demo ends with some, too.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, root+"/README.md", root+"/examples/voting/README.md", root+"/test/demo/demo.sh") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimPrefix(path, root+"/")] = string(raw)
	}
	return texts
}

func TestCommandsExist(t *testing.T) {
	targets := makeTargets(t)
	h := helper{program: buildMeshctl(t), known: map[string]help{}}
	seen := 0
	for name, text := range documents(t) {
		for _, words := range commandsIn(text) {
			seen++
			var problem string
			switch words[0] {
			case "make":
				problem = missingTarget(targets, words[1:])
			case "docker", "meshctl":
				problem = h.check(words[1:])
			}
			if problem != "" {
				t.Errorf("%s: %s: %s", name, strings.Join(words, " "), problem)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d commands found: the documents are read wrongly", seen)
	}
}

// The checks themselves must catch what they are for.
func TestChecksCatch(t *testing.T) {
	h := helper{program: buildMeshctl(t), known: map[string]help{}}
	for line, good := range map[string]bool{
		"lab up --nodes 3 --managers 3":                        true,
		"lab up --name other --bare":                           true,
		"lab exec node1 -- sh --posix":                         true,
		"service create --publish 80:80 image cmd --unknown":   true,
		"service create --publsh 80:80 image":                  false,
		"lab up --nods 3":                                      false,
		"lab explode":                                          false,
		"servce ls":                                            false,
		"lab ls --format json":                                 true,
		"--host unix:///run/meshd/meshd.sock service ps a b c": true,
	} {
		if problem := h.check(strings.Fields(line)); (problem == "") != good {
			t.Errorf("%s: %q", line, problem)
		}
	}
	if missingTarget([]string{"demo"}, []string{"-C", "x", "demo"}) != "" || missingTarget([]string{"demo"}, []string{"dmeo"}) == "" {
		t.Error("make's targets are not told apart")
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)\)`)
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || !strings.HasSuffix(name, ".md") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// The picture of the floors names all packages, and none that are not there.
func TestArchitectureNamesThePackages(t *testing.T) {
	text := documents(t)["docs/architecture.md"]
	for _, folder := range []string{"overlay", "ipvs", "dns", "certs", "meshd", "orchestrator", "cmd", "test"} {
		for _, m := range regexp.MustCompile(`\b`+folder+`/[a-z]+\b`).FindAllString(text, -1) {
			if _, err := os.Stat(filepath.Join(root, m)); err != nil {
				t.Error("docs/architecture.md:", err)
			}
		}
		entries, err := os.ReadDir(filepath.Join(root, folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && folder != "test" && e.Name() != "bpf" && e.Name() != "testdata" && !regexp.MustCompile(`\b`+e.Name()+`\b`).MatchString(text) {
				t.Errorf("docs/architecture.md says nothing of %s/%s", folder, e.Name())
			}
		}
	}
}

func makeTargets(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(string(raw), -1) {
		targets = append(targets, m[1])
	}
	return targets
}

func missingTarget(targets, words []string) string {
	for i, word := range words {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") || i > 0 && words[i-1] == "-C" {
			continue
		}
		if !slices.Contains(targets, word) {
			return "the Makefile has no target " + word
		}
	}
	return ""
}

func buildMeshctl(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "meshctl")
	if out, err := exec.Command("go", "build", "-o", program, root+"/cmd/meshctl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
