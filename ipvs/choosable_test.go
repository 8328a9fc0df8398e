package ipvs

import (
	"slices"
	"testing"
)

func TestChoosable(t *testing.T) {
	for name, c := range map[string]struct {
		service Service
		want    []uint16
	}{
		"all":             {Service{Backends: []Backend{{Port: 1}, {Port: 2}}}, []uint16{1, 2}},
		"draining":        {Service{Backends: []Backend{{Port: 1, Draining: true}, {Port: 2}}}, []uint16{2}},
		"all draining":    {Service{Backends: []Backend{{Port: 1, Draining: true}}}, nil},
		"ejected":         {Service{Backends: []Backend{{Port: 1, Ejected: true}, {Port: 2}}}, []uint16{2}},
		"all ejected":     {Service{Backends: []Backend{{Port: 1, Ejected: true}, {Port: 2, Draining: true}}}, []uint16{1}},
		"near":            {Service{PreferLocal: true, Backends: []Backend{{Port: 1, Local: true}, {Port: 2}}}, []uint16{1}},
		"none near":       {Service{PreferLocal: true, Backends: []Backend{{Port: 1, Local: true, Draining: true}, {Port: 2}}}, []uint16{2}},
		"near, ejected":   {Service{PreferLocal: true, Backends: []Backend{{Port: 1, Local: true, Ejected: true}, {Port: 2}}}, []uint16{2}},
		"only near":       {Service{LocalOnly: true, Backends: []Backend{{Port: 1, Local: true}, {Port: 2}}}, []uint16{1}},
		"only near: none": {Service{LocalOnly: true, Backends: []Backend{{Port: 1}}}, nil},
	} {
		var got []uint16
		for _, b := range c.service.Choosable() {
			got = append(got, b.Port)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
