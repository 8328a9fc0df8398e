// Package arch keeps the floors of the house: which folder may import which, and through which single door the kernel's interfaces and
// the large libraries are used. See docs/architecture.md.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/meshd/meshd"

// floor says which folders of the project the files below a folder may import, beside their own.
type floor struct {
	folder string
	may    []string
	reason string
}

func floors() []floor {
	return []floor{
		{"overlay", nil, "the data plane takes plain values: it must be usable, and testable, without the control plane"},
		{"dns", nil, "the resolver answers from the tables that it is given, whoever compiled them"},
		{"ipvs", nil, "load balancing knows addresses and ports, not services or tasks"},
		{"certs", nil, "cryptography that depends on nothing can be reviewed alone"},
		{"orchestrator", []string{"certs", "overlay/ipam"}, "the control plane decides; links, packets and resolvers are not its business"},
		{"meshd/plan", []string{"orchestrator", "overlay", "dns", "ipvs"}, "the compiler between the planes is a pure function of values"},
		{"meshd", []string{"orchestrator", "overlay", "dns", "ipvs", "certs"}, "assembly knows every part, but no main and no test rig"},
		{"cmd", []string{"meshd", "test/lab"}, "mains turn flags into a Config; whatever else they import is logic in the wrong place"},
		{"examples", nil, "an application of a cluster knows nothing of what it runs on"},
		{"test", []string{"meshd", "orchestrator", "overlay", "dns", "ipvs", "certs", "cmd"}, "tests may look everywhere"},
	}
}

// door says where a library may be used by production code. Tests may use any to look at what the code did.
type door struct {
	library string
	at      []string
	reason  string
}

func doors() []door {
	return []door{
		{"github.com/vishvananda/netlink", []string{"overlay/link", "ipvs/nat", "test/lab"}, "EINTR, namespaces and threads are handled in one place"},
		{"github.com/vishvananda/netns", []string{"overlay/link", "test/lab"}, "EINTR, namespaces and threads are handled in one place"},
		{"github.com/google/nftables", []string{"overlay/nft", "ipvs/kernel", "ipvs/nat", "test/lab"}, "one owner of the rule sets: of nodes', and of containers'"},
		{"github.com/moby/ipvs", []string{"ipvs/kernel"}, "one owner of the services"},
		{"github.com/cilium/ebpf", []string{"overlay/datapath", "ipvs/ebpf"}, "pins, maps and programs have one owner each"},
		{"golang.zx2c4.com/wireguard", []string{"overlay/wireguard"}, "kernel or process: everybody else sees devices and peers"},
		{"github.com/hashicorp/raft", []string{"orchestrator/consensus"}, "everybody else sees a Proposer"},
		{"github.com/hashicorp/raft-boltdb", []string{"orchestrator/consensus"}, "the log's format on disk is consensus's own matter"},
		{"github.com/hashicorp/memberlist", []string{"overlay/gossip"}, "its callbacks run under its locks; only one place has to know"},
		{"github.com/miekg/dns", []string{"dns", "test/sample"}, "messages are parsed and bounded in one place"},
		{"github.com/moby/moby/client", []string{"orchestrator/runner", "cmd/meshctl", "test"}, "the engine has one driver; meshctl and the lab are clients of meshd"},
		{"github.com/prometheus/client_golang", []string{"meshd/observe"}, "metrics are read from the parts by one collector; the parts only count"},
		{"github.com/docker/cli", []string{"cmd/meshctl"}, "a command line is no library for a daemon"},
	}
}

// file is one Go file: folder relative to the root, and what it imports.
type file struct {
	path, folder string
	test         bool
	comment      bool // it holds a package comment
	imports      []string
}

func TestImportsFollowTheFloors(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, problem := range floorProblems(f) {
			t.Error(problem)
		}
	}
}

func TestLibrariesHaveOneDoor(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, problem := range doorProblems(f) {
			t.Error(problem)
		}
	}
}

// The rules themselves must catch what they are for.
func TestRulesCatch(t *testing.T) {
	for _, c := range []struct {
		f            file
		floor, doors int
	}{
		{file{folder: "overlay/link", imports: []string{module + "/orchestrator/store"}}, 1, 0},
		{file{folder: "overlay", imports: []string{module + "/overlay/link"}}, 0, 0},
		{file{folder: "orchestrator/allocator", imports: []string{module + "/overlay/ipam", module + "/overlay"}}, 1, 0},
		{file{folder: "meshd/plan", imports: []string{module + "/meshd"}}, 1, 0},
		{file{folder: "meshd", imports: []string{module + "/cmd/meshd"}}, 1, 0},
		{file{folder: "helpers"}, 1, 0},
		{file{folder: "overlay", imports: []string{"github.com/vishvananda/netlink/nl"}}, 0, 1},
		{file{folder: "overlay", test: true, imports: []string{"github.com/vishvananda/netlink"}}, 0, 0},
		{file{folder: "meshd", imports: []string{"github.com/hashicorp/raft-boltdb/v2"}}, 0, 1},
	} {
		if got := floorProblems(c.f); len(got) != c.floor {
			t.Errorf("%+v: floors say %q", c.f, got)
		}
		if got := doorProblems(c.f); len(got) != c.doors {
			t.Errorf("%+v: doors say %q", c.f, got)
		}
	}
}

func floorProblems(f file) []string {
	i := slices.IndexFunc(floors(), func(fl floor) bool { return within(f.folder, fl.folder) })
	if i < 0 {
		return []string{f.path + ": the top level has no place for it"}
	}
	rule := floors()[i]
	var problems []string
	for _, imported := range f.imports {
		folder, ours := strings.CutPrefix(imported, module+"/")
		if ours && !withinAny(folder, append(rule.may, rule.folder)) {
			problems = append(problems, f.path+" imports "+folder+": "+rule.reason)
		}
	}
	return problems
}

func doorProblems(f file) []string {
	if f.test {
		return nil
	}
	var problems []string
	for _, d := range doors() {
		for _, imported := range f.imports {
			if within(imported, d.library) && !withinAny(f.folder, d.at) {
				problems = append(problems, f.path+" imports "+imported+", which is for "+strings.Join(d.at, ", ")+": "+d.reason)
			}
		}
	}
	return problems
}

// Names that say nothing collect whatever nobody found a place for.
func TestPackageNamesSaySomething(t *testing.T) {
	for _, f := range goFiles(t) {
		if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "misc"}, filepath.Base(f.folder)) {
			t.Errorf("%s: what is in it? Name the folder after that", f.folder)
		}
	}
}

// A package says what it is for, and a main what it does, before anybody has to read its code.
func TestPackagesSayWhatTheyAre(t *testing.T) {
	said := map[string]bool{}
	for _, f := range goFiles(t) {
		said[f.folder] = said[f.folder] || f.comment
	}
	for folder, has := range said {
		if !has {
			t.Errorf("%s: no package comment", folder)
		}
	}
}

func withinAny(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return within(path, folder) })
}

// within tells whether a path is the folder or lies below it, as the versions of a module (…/v2) do.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func goFiles(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin" || d.Name() == "build") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		f := file{test: strings.HasSuffix(path, "_test.go"), comment: parsed.Doc != nil}
		f.path, _ = filepath.Rel(root, path)
		f.folder = filepath.ToSlash(filepath.Dir(f.path))
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imported)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
