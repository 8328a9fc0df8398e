package overlay

import "github.com/meshd/meshd/overlay/datapath"

// forgetEndpoints deletes all endpoints from the tables pinned in a directory,
// as somebody's debugging might.
func forgetEndpoints(dir string) error {
	t, err := datapath.OpenEndpoints(dir)
	if err != nil {
		return err
	}
	defer t.Close()
	all, err := t.All()
	if err != nil {
		return err
	}
	for k := range all {
		if err := t.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
