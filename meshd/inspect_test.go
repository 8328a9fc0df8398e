package meshd

import (
	"errors"
	"testing"
	"time"
)

func TestLookTellsWhatIsNotHeldYet(t *testing.T) {
	d, o := startDataplane(t)
	if v := d.look(); v.Self != "" || v.Told {
		t.Errorf("outside of a swarm: %+v", v)
	}
	d.join(identity{node: "a"})
	if v := d.look(); v.Self != "a" || v.Told {
		t.Errorf("before a manager has spoken: %+v", v)
	}
	d.Update(view(7))
	if err := ready(t, d, 7); err != nil {
		t.Fatal(err)
	}
	v := d.look()
	if !v.Told || v.Held["mesh"] != 7 || len(v.Behind) != 0 || len(v.Desired.Overlay.Networks) != 1 {
		t.Errorf("held: %+v", v)
	}
	o.failWith(errors.New("no such device"))
	before := time.Now()
	d.Update(view(8))
	d.Update(view(9))
	v = d.look()
	if since, behind := v.Behind["mesh"]; !behind || since.Before(before) || v.Held["mesh"] != 7 || v.Networks[0].Revision != 9 {
		t.Errorf("behind: %+v", v)
	}
	o.failWith(nil)
	if err := ready(t, d, 9); err != nil {
		t.Fatal(err)
	}
	if v := d.look(); len(v.Behind) != 0 || v.Held["mesh"] != 9 {
		t.Errorf("caught up: %+v", v)
	}
}
