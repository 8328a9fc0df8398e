package main

import (
	_ "embed"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// inventory is the official client's; its head says which.
//
//go:embed testdata/inventory.txt
var inventory string

// official is a command of the official client, as a line of the inventory says it.
type official struct {
	path    []string
	aliases []string
	flags   []string // name[/shorthand]:type
}

func officialCommands(t *testing.T) []official {
	t.Helper()
	var all []official
	for line := range strings.Lines(inventory) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		head, flags, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("no command in line %q", line)
		}
		path, aliases, _ := strings.Cut(head, " (")
		c := official{path: strings.Fields(strings.TrimPrefix(path, ".")), flags: strings.Fields(flags)}
		if aliases != "" {
			c.aliases = strings.Split(strings.TrimSuffix(aliases, ")"), ", ")
		}
		all = append(all, c)
	}
	return all
}

// Every command, alias and flag of the official client is there, of the same type and under the same letter.
func TestOfficialCommandsAreThere(t *testing.T) {
	root, _ := newRoot(newTestCLI(t))
	all := officialCommands(t)
	if len(all) < 60 {
		t.Fatalf("the inventory has %d commands only", len(all))
	}
	for _, want := range all {
		cmd, rest, err := root.Find(want.path)
		if err != nil || len(rest) > 0 {
			t.Errorf("no command %q (%v)", want.path, err)
			continue
		}
		if !slices.Equal(cmd.Aliases, want.aliases) {
			t.Errorf("%s has the aliases %q, want %q", cmd.CommandPath(), cmd.Aliases, want.aliases)
		}
		for _, flag := range want.flags {
			name, _, _ := strings.Cut(flag, ":")
			name, _, _ = strings.Cut(name, "/")
			if have := describe(lookup(cmd, name)); have != flag {
				t.Errorf("%s: flag %q, want %q", cmd.CommandPath(), have, flag)
			}
		}
	}
}

// lookup finds a flag that a command or all of its subcommands take.
func lookup(cmd *cobra.Command, name string) *pflag.Flag {
	if f := cmd.Flags().Lookup(name); f != nil {
		return f
	}
	return cmd.PersistentFlags().Lookup(name)
}

func describe(f *pflag.Flag) string {
	switch {
	case f == nil:
		return ""
	case f.Shorthand != "":
		return f.Name + "/" + f.Shorthand + ":" + f.Value.Type()
	}
	return f.Name + ":" + f.Value.Type()
}

// Whatever command there is, docker's and ours, has help, takes no flag that its help keeps silent about, and completes something.
func TestEveryCommandHelps(t *testing.T) {
	root, _ := newRoot(newTestCLI(t))
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" && !cmd.Hidden {
			t.Errorf("%s: nothing says what it is for", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" && !f.Hidden {
				t.Errorf("%s --%s: nothing says what it is for", cmd.CommandPath(), f.Name)
			}
		})
		if strings.ContainsAny(cmd.Use, " ") && cmd.Runnable() && cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 && takesNames(cmd) {
			t.Errorf("%s: completes no names", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
}

// takesNames says whether the usage line asks for the name of something that the cluster has.
func takesNames(cmd *cobra.Command) bool {
	return slices.ContainsFunc(strings.Fields(cmd.Use), func(word string) bool {
		for _, kind := range []string{"SERVICE", "NODE", "STACK", "SECRET", "CONFIG", "NETWORK", "TASK"} {
			if strings.Contains(word, kind) && !strings.Contains(cmd.Use, "create") {
				return true
			}
		}
		return false
	})
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		root, _ := newRoot(newTestCLI(t))
		var script strings.Builder
		root.SetOut(&script)
		root.SetErr(io.Discard)
		root.SetArgs([]string{"completion", shell})
		if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(script.String(), "__complete") {
			t.Errorf("%s: %v, %d bytes that ask the program for nothing", shell, err, script.Len())
		}
	}
}
