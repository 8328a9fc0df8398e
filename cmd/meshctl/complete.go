package main

import (
	"io"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/test/lab"
)

// completionOf is how a command's sibling completes its arguments.
func completionOf(parent *cobra.Command, sibling string) cobra.CompletionFunc {
	for _, c := range parent.Commands() {
		if c.Name() == sibling {
			return c.ValidArgsFunction
		}
	}
	return cobra.NoFileCompletions
}

// completeTasks gives the IDs of tasks, each with its service and node behind it.
func completeTasks(dockerCLI command.Cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		found, err := dockerCLI.Client().TaskList(cmd.Context(), client.TaskListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var ids []string
		for _, t := range found.Items {
			ids = append(ids, cobra.CompletionWithDesc(t.ID, string(t.Status.State)))
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeLab gives the names of a lab's nodes, several joined by commas, too.
func completeLab(name *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		l, err := lab.Open(*name, io.Discard)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		nodes, err := l.Ls(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		before := word[:strings.LastIndexByte(word, ',')+1]
		var names []string
		for _, n := range nodes {
			names = append(names, before+n.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
