package docs

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// helper asks meshctl's own help which commands and flags there are.
type helper struct {
	program string
	known   map[string]help
}

// help is what a command says of itself.
type help struct {
	depth int               // words of the command that it took, counted from the usage line
	group bool              // it has subcommands
	flags map[string]string // --name to the kind of its value, "" for none
}

var (
	usageLine = regexp.MustCompile(`(?m)^Usage:\s+meshctl((?: [a-z-]+)*)`)
	flagLine  = regexp.MustCompile(`(?m)^\s+(?:(-\w), )?(--[a-z0-9-]+)(?: ([a-zA-Z0-9-]+))?(?:\s{2,}|$)`)
)

// check returns what is wrong with a command line, "" if nothing.
func (h *helper) check(words []string) string {
	top, err := h.ask(nil)
	if err != nil {
		return err.Error()
	}
	words, problem := skipFlags(top.flags, words)
	if problem != "" {
		return problem
	}
	// Commands are at most three words deep; the usage line says how many of them it took.
	path := words[:min(len(words), 3)]
	for i, word := range path {
		if !regexp.MustCompile(`^[a-z-]+$`).MatchString(word) || strings.HasPrefix(word, "-") {
			path = path[:i]
			break
		}
	}
	it, err := h.ask(path)
	if err != nil {
		return err.Error()
	}
	if it.depth == 0 || it.group && len(words) > it.depth {
		return "no such command"
	}
	_, problem = skipFlags(it.flags, words[it.depth:])
	return problem
}

// skipFlags returns what begins with the first word that is no flag.
func skipFlags(flags map[string]string, words []string) ([]string, string) {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && words[0] != "--" {
		name, _, joined := strings.Cut(words[0], "=")
		kind, known := flags[name]
		if !known {
			return nil, "no flag " + name
		}
		words = words[1:]
		if kind != "" && !joined && len(words) > 0 {
			words = words[1:]
		}
	}
	return words, ""
}

func (h *helper) ask(path []string) (help, error) {
	key := strings.Join(path, " ")
	if known, ok := h.known[key]; ok {
		return known, nil
	}
	out, err := exec.Command(h.program, append(slices.Clip(path), "--help")...).CombinedOutput()
	if err != nil {
		return help{}, fmt.Errorf("meshctl %s --help: %w: %s", key, err, out)
	}
	usage := usageLine.FindSubmatch(out)
	if usage == nil {
		return help{}, fmt.Errorf("meshctl %s --help has no usage line", key)
	}
	it := help{
		depth: len(strings.Fields(string(usage[1]))),
		group: regexp.MustCompile(`(?m)^(Management )?Commands:`).Match(out),
		flags: map[string]string{"--help": ""},
	}
	for _, m := range flagLine.FindAllSubmatch(out, -1) {
		it.flags[string(m[2])] = string(m[3])
		if len(m[1]) > 0 {
			it.flags[string(m[1])] = string(m[3])
		}
	}
	h.known[key] = it
	return it, nil
}
