package main

import (
	"reflect"
	"slices"
	"strings"

	dockertypes "github.com/docker/cli/cli/compose/types"
)

// prune takes out of a configuration what docker's types of the format 3.x have no field for, and returns the keys, each with the path
// below its service or its kind of object.
func prune(config map[string]any) []string {
	var ignored []string
	pruneStruct(config, reflect.TypeFor[dockertypes.Config](), "", &ignored)
	return ignored
}

// extensible is where the format 3.x has a place for extensions.
var extensible = []string{"", "services", "networks", "volumes", "secrets", "configs"}

func pruneStruct(values map[string]any, t reflect.Type, path string, ignored *[]string) {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		fields[name] = t.Field(i).Type
	}
	for key, value := range values {
		field, known := fields[key]
		switch {
		case value == nil:
			delete(values, key) // compose-go says so of what was not said
		case known:
			pruneValue(value, field, join(path, key), ignored)
		case !strings.HasPrefix(key, "x-"):
			*ignored = append(*ignored, join(path, key))
			delete(values, key)
		case !slices.Contains(extensible, path):
			delete(values, key)
		}
	}
}

// pruneValue goes into what has structs below it: lists, and objects by their names.
func pruneValue(value any, t reflect.Type, path string, ignored *[]string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := value.(type) {
	case map[string]any:
		switch {
		case t.Kind() == reflect.Struct:
			pruneStruct(v, t, path, ignored)
		case t.Kind() == reflect.Map || t == reflect.TypeFor[dockertypes.Services]():
			for _, one := range v {
				pruneValue(one, t.Elem(), path, ignored)
			}
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for _, one := range v {
				pruneValue(one, t.Elem(), path, ignored)
			}
		}
	}
}

// join makes the path that a user knows: "services" goes without saying.
func join(path, key string) string {
	if path == "" || path == "services" {
		return key
	}
	return path + "." + key
}
