package main

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	table := newTable("theirs", "ours", "before", "nothing")
	for _, v := range []float64{4, 2, 3} {
		table.add("time, s", "theirs", v)
		table.add("time, s", "ours", 1)
	}
	table.add("lost, %", "theirs", 0)
	table.add("lost, %", "ours", 1.5)
	table.add("only one's", "ours", 1234)
	table.add("before", "theirs", 5)
	var out strings.Builder
	table.print(&out)
	want := `| | theirs | ours | ratio |
|---|---|---|---|
| before | 5 (5-5) |  |  |
| time, s | 3 (2-4) | 1 (1-1) | 0.33 |
| lost, % | 0 (0-0) | 1.5 (1.5-1.5) |  |
| only one's |  | 1234 (1234-1234) |  |
`
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
}

func TestChooseSteps(t *testing.T) {
	for names, want := range map[string]string{
		"":              "create web idle requests update container worker end",
		"update,create": "create web update end",
	} {
		steps, err := chooseSteps(names)
		var got []string
		for _, s := range steps {
			got = append(got, s.name)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v; want %s", names, got, err, want)
		}
	}
	if _, err := chooseSteps("create,speed"); err == nil {
		t.Error("figures that there are not are taken")
	}
}
