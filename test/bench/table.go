package main

import (
	"fmt"
	"io"
	"os"
	"slices"
)

// table has a row for each figure, in the order in which they first came, and the values of the rounds in two columns.
type table struct {
	columns [2]string
	rows    []string
	values  map[string]map[string][]float64 // by row and column
}

// newTable takes the names of the columns, and rows that come before all others if they have values.
func newTable(first, second string, rows ...string) *table {
	t := &table{columns: [2]string{first, second}, rows: rows, values: map[string]map[string][]float64{}}
	for _, row := range rows {
		t.values[row] = map[string][]float64{}
	}
	return t
}

// add keeps a round's value, and says it.
func (t *table) add(row, column string, value float64) {
	fmt.Fprintf(os.Stderr, "%s: %s: %s\n", row, column, short(value))
	if t.values[row] == nil {
		t.rows = append(t.rows, row)
		t.values[row] = map[string][]float64{}
	}
	t.values[row][column] = append(t.values[row][column], value)
}

// print shows medians (ranges), and the median of the rounds' ratios of the second column to the first.
func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "| | %s | %s | ratio |\n|---|---|---|---|\n", t.columns[0], t.columns[1])
	for _, row := range t.rows {
		first, second := t.values[row][t.columns[0]], t.values[row][t.columns[1]]
		if len(first)+len(second) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", row, cell(first), cell(second), ratioOf(second, first))
	}
}

func cell(v []float64) string {
	if len(v) == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%s-%s)", short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
}

// ratioOf is empty where there is none.
func ratioOf(v, to []float64) string {
	if len(v) == 0 || len(v) != len(to) || slices.Contains(to, 0) {
		return ""
	}
	return fmt.Sprintf("%.2f", median(ratios(v, to)))
}
