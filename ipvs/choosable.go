package ipvs

import "slices"

// Choosable are the backends of a normalized service that new connections may go to, in
// their order: of those that serve the sound ones, and of these, where that is
// preferred, the ones on this node; each choice as long as it leaves any.
func (s Service) Choosable() []Backend {
	serving := slices.DeleteFunc(slices.Clone(s.Backends), func(b Backend) bool { return b.Draining || s.LocalOnly && !b.Local })
	keep := func(good func(Backend) bool) {
		if chosen := slices.DeleteFunc(slices.Clone(serving), func(b Backend) bool { return !good(b) }); len(chosen) > 0 {
			serving = chosen
		}
	}
	keep(func(b Backend) bool { return !b.Ejected })
	if s.PreferLocal {
		keep(func(b Backend) bool { return b.Local })
	}
	return serving
}
