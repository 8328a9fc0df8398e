package api

import (
	"encoding/json"
	"net/http"
	"slices"
)

// usageVersion is the version since which the engine counts disk usage itself, by kind.
// Before, clients counted the objects that it listed.
var usageVersion = apiVersion{1, 52}

// diskUse is what objects of one kind take of an engine's disk, in bytes.
type diskUse struct {
	ActiveCount, TotalCount, Reclaimable, TotalSize int64
	Items                                           []json.RawMessage `json:",omitempty"`
}

// listed are the objects that an older engine answers with.
type listed struct {
	LayersSize                              int64
	Images, Containers, Volumes, BuildCache []json.RawMessage
}

// diskUsage answers newer clients for an engine that is older than they expect.
func (s *Server) diskUsage(w http.ResponseWriter, r *http.Request) error {
	v, versioned := requestVersion(r.Context())
	high, _, err := s.engine.versions(r.Context())
	if !versioned || v.less(usageVersion) || err != nil || !high.less(usageVersion) {
		return s.engine.forward(w, r)
	}
	status, header, body, err := s.engine.ask(r)
	if err != nil {
		return err
	}
	var old listed
	if status != http.StatusOK || json.Unmarshal(body, &old) != nil {
		return pass(w, status, header, body)
	}
	wanted := r.URL.Query()["type"]
	out := map[string]diskUse{}
	for kind, use := range map[string]struct {
		name string
		of   diskUse
	}{
		"image": {"ImageUsage", old.images()}, "container": {"ContainerUsage", old.containers()},
		"volume": {"VolumeUsage", old.volumes()}, "build-cache": {"BuildCacheUsage", old.builds()},
	} {
		if !isSet(r, "verbose") {
			use.of.Items = nil
		}
		if len(wanted) == 0 || slices.Contains(wanted, kind) {
			out[use.name] = use.of
		}
	}
	reply(w, http.StatusOK, out)
	return nil
}

// count adds up objects; size says how many bytes one takes, and whether it is in use.
func count[T any](items []json.RawMessage, size func(T) (bytes int64, active bool)) diskUse {
	u := diskUse{TotalCount: int64(len(items)), Items: items}
	for _, item := range items {
		var o T
		if json.Unmarshal(item, &o) != nil {
			continue // listed, but of a form that nobody knows
		}
		bytes, active := size(o)
		u.TotalSize += bytes
		if active {
			u.ActiveCount++
		} else {
			u.Reclaimable += bytes
		}
	}
	return u
}

// images share layers: together they take less than each for itself. Their size is that
// of the layers, and one gives back what it shares with no other.
func (l listed) images() diskUse {
	type image struct{ Containers, Size, SharedSize int64 }
	u := count(l.Images, func(i image) (int64, bool) {
		if i.Containers < 0 || i.Size < 0 || i.SharedSize < 0 { // not known
			return 0, i.Containers > 0
		}
		return i.Size - i.SharedSize, i.Containers > 0
	})
	u.TotalSize = l.LayersSize
	return u
}

func (l listed) containers() diskUse {
	type container struct {
		SizeRw int64
		State  string
	}
	return count(l.Containers, func(c container) (int64, bool) {
		return c.SizeRw, slices.Contains([]string{"running", "paused", "restarting"}, c.State)
	})
}

func (l listed) volumes() diskUse {
	type volume struct {
		UsageData struct{ RefCount, Size int64 }
	}
	return count(l.Volumes, func(v volume) (int64, bool) { return max(v.UsageData.Size, 0), v.UsageData.RefCount > 0 })
}

func (l listed) builds() diskUse {
	type build struct {
		Size          int64
		InUse, Shared bool
	}
	return count(l.BuildCache, func(b build) (int64, bool) {
		if b.Shared { // counted where it comes from
			return 0, b.InUse
		}
		return b.Size, b.InUse
	})
}
