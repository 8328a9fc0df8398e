// Package placeholder fills in what {{...}} in a service's template stands for, by
// the names that Swarm gives it: {{.Node.Hostname}}-{{.Task.Slot}}. The node that
// runs a task expands all that may hold one; managers and nodes expand host names,
// to answer for them in DNS.
package placeholder

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/moby/moby/api/types/swarm"
)

// Functions are what all templates can call.
func Functions() template.FuncMap {
	return template.FuncMap{"join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper}
}

// Values are what placeholders can refer to. It has no methods: templates could
// call them.
type Values struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     swarm.Platform
	}
	Task struct{ ID, Name, Slot string }
}

// errNotPlain: a host name is more than text and placeholders.
var errNotPlain = errors.New("only values such as {{.Task.Slot}} can be used, and join, lower and upper")

// Expand fills a text in.
func Expand(text string, v Values) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := parsed(text)
	if err != nil {
		return "", err
	}
	return execute(t, text, v)
}

// ExpandPlain fills a text in that is read on machines which do not run the task:
// without loops, definitions and formats, a text that somebody else wrote takes
// neither time nor memory.
func ExpandPlain(text string, v Values) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := parsed(text)
	if err == nil && !plain(t) {
		err = fmt.Errorf("template %q: %w", text, errNotPlain)
	}
	if err != nil {
		return "", err
	}
	return execute(t, text, v)
}

func parsed(text string) (*template.Template, error) {
	t, err := template.New("expansion").Option("missingkey=error").Funcs(Functions()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template %q: %w", text, err)
	}
	return t, nil
}

func execute(t *template.Template, text string, v Values) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("template %q: %w", text, err)
	}
	return b.String(), nil
}

// plain says that a template is text and values, one after the other.
func plain(t *template.Template) bool {
	if len(t.Templates()) != 1 || t.Tree == nil {
		return false
	}
	for _, n := range t.Root.Nodes {
		switch n := n.(type) {
		case *parse.TextNode, *parse.CommentNode:
		case *parse.ActionNode:
			if !plainPipe(n.Pipe) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func plainPipe(p *parse.PipeNode) bool {
	if len(p.Decl) > 0 {
		return false
	}
	for _, c := range p.Cmds {
		for _, arg := range c.Args {
			switch arg := arg.(type) {
			case *parse.FieldNode, *parse.StringNode, *parse.NumberNode:
			case *parse.IdentifierNode:
				switch arg.Ident {
				case "join", "lower", "upper", "index":
				default:
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}
