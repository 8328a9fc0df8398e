package docs

import (
	"regexp"
	"slices"
	"strings"
)

var (
	block    = regexp.MustCompile("(?s)```sh\n(.*?)```")
	inline   = regexp.MustCompile("`((?:make|meshctl|docker) [^`]*)`")
	heredoc  = regexp.MustCompile(`(?s)<<END\n(.*?)\nEND\n`)
	comment  = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	variable = regexp.MustCompile(`\$\{?name_lab\}?|\$\{?for_lab\}?`)
	// between splits a line into simple commands; what a quoted substitution holds is one, too.
	between = regexp.MustCompile(`\n|;|\||&&|\\?\$\(|\)|\bdo\b|: `)
)

// commandsIn returns the commands of make, docker and meshctl in a document's shell blocks and inline code, as words. It knows as much
// of the shell as the documents use.
func commandsIn(text string) [][]string {
	var shell []string
	for _, pattern := range []*regexp.Regexp{block, inline, heredoc} {
		for _, m := range pattern.FindAllStringSubmatch(text, -1) {
			shell = append(shell, m[1])
		}
	}
	var commands [][]string
	for _, script := range shell {
		script = variable.ReplaceAllString(comment.ReplaceAllString(script, ""), "")
		for _, line := range between.Split(script, -1) {
			words := strings.Fields(strings.ReplaceAll(line, `"`, " "))
			if len(words) > 1 && slices.Contains([]string{"make", "docker", "meshctl"}, words[0]) {
				commands = append(commands, words)
			}
		}
	}
	return commands
}
