package store

// The functions below are the only places that map a Kind to its table.

func (v *View) lookup(k Kind, key string) Object {
	switch k {
	case KindCluster:
		return orNil(v.clusters, key)
	case KindNode:
		return orNil(v.nodes, key)
	case KindService:
		return orNil(v.services, key)
	case KindSpec:
		return orNil(v.specs, key)
	case KindTask:
		return orNil(v.tasks, key)
	case KindNetwork:
		return orNil(v.networks, key)
	case KindSecret:
		return orNil(v.secrets, key)
	case KindConfig:
		return orNil(v.configs, key)
	}
	return nil
}

// orNil avoids a typed nil inside an Object.
func orNil[T Object](t *table[T], key string) Object {
	if o, ok := t.rows[key]; ok {
		return o
	}
	return nil
}

func (v *View) put(o Object) {
	switch o := o.(type) {
	case *Cluster:
		v.clusters.put(o)
	case *Node:
		v.nodes.put(o)
	case *Service:
		v.services.put(o)
	case *Spec:
		v.specs.put(o)
	case *Task:
		v.tasks.put(o)
	case *Network:
		v.networks.put(o)
	case *Secret:
		v.secrets.put(o)
	case *Config:
		v.configs.put(o)
	}
}

func (v *View) drop(k Kind, key string) {
	switch k {
	case KindCluster:
		v.clusters.remove(key)
	case KindNode:
		v.nodes.remove(key)
	case KindService:
		v.services.remove(key)
	case KindSpec:
		v.specs.remove(key)
	case KindTask:
		v.tasks.remove(key)
	case KindNetwork:
		v.networks.remove(key)
	case KindSecret:
		v.secrets.remove(key)
	case KindConfig:
		v.configs.remove(key)
	}
}

// nameOf returns the name that must be unique within the object's kind.
func nameOf(o Object) string {
	switch o := o.(type) {
	case *Service:
		return o.Spec.Name
	case *Network:
		return o.Spec.Name
	case *Secret:
		return o.Spec.Name
	case *Config:
		return o.Spec.Name
	}
	return ""
}

func (v *View) named(k Kind, name string) bool {
	switch k {
	case KindService:
		return v.services.byName(name) != nil
	case KindNetwork:
		return v.networks.byName(name) != nil
	case KindSecret:
		return v.secrets.byName(name) != nil
	case KindConfig:
		return v.configs.byName(name) != nil
	case KindCluster, KindNode, KindSpec, KindTask:
	}
	return false
}

func (v *View) objects() []Object {
	var out []Object
	out = appendObjects(out, v.clusters)
	out = appendObjects(out, v.nodes)
	out = appendObjects(out, v.services)
	out = appendObjects(out, v.specs)
	out = appendObjects(out, v.tasks)
	out = appendObjects(out, v.networks)
	out = appendObjects(out, v.secrets)
	return appendObjects(out, v.configs)
}

func appendObjects[T Object](out []Object, t *table[T]) []Object {
	for _, o := range t.all() {
		out = append(out, o)
	}
	return out
}
