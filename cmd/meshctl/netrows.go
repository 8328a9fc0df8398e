package main

import (
	"io"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"

	"github.com/meshd/meshd/meshd/observe"
)

// writeRows prints rows as docker's own commands do: a table, JSON lines, or a template.
func writeRows(w io.Writer, format, table string, header formatter.SubHeaderContext, rows []formatter.SubContext) error {
	if format == formatter.TableFormatKey {
		format = table
	}
	c := formatter.Context{Output: w, Format: formatter.Format(format)}
	return c.Write(&headerRow{formatter.HeaderContext{Header: header}}, func(print func(formatter.SubContext) error) error {
		for _, r := range rows {
			if err := print(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// headerRow names the columns.
type headerRow struct{ formatter.HeaderContext }

// noHeader is for rows: the formatter asks only headerRow for names.
type noHeader struct{}

func (noHeader) FullHeader() any { return nil }

// checkRow is a difference on a node.
type checkRow struct {
	noHeader
	Node string
	observe.Difference
}

// stepRow is a step of a trace.
type stepRow struct {
	noHeader
	observe.Step
}

// flowRow is a connection.
type flowRow struct {
	noHeader
	observe.Flow
}

// Idle is how long the connection has been silent.
func (r *flowRow) Idle() string {
	return units.HumanDuration(time.Duration(r.IdleSeconds) * time.Second)
}
