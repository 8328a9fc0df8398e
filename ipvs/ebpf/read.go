package ebpf

import (
	"errors"
	"iter"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batchSize is how many entries are read with one system call.
const batchSize = 1024

// all iterates over a map; an error ends up in *err. Entries that others add or
// remove meanwhile may be missed: there is one writer, or it does not matter.
func all[K comparable, V any](m *ebpf.Map, err *error) iter.Seq2[K, V] {
	return allOn[K, V](m, 1, err)
}

// allOn is all for maps that have a value per CPU. It yields one after the other, with the same key.
func allOn[K comparable, V any](m *ebpf.Map, cpus int, err *error) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		*err = errors.Join(*err, inBatches(m, cpus, yield))
	}
}

// inBatches reads a whole map in batches until yield has enough.
func inBatches[K comparable, V any](m *ebpf.Map, cpus int, yield func(K, V) bool) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, batchSize), make([]V, batchSize*cpus)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n * cpus {
			if !yield(keys[i/cpus], values[i]) {
				return nil
			}
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case errors.Is(err, unix.ENOSPC) && len(keys) < int(m.MaxEntries()):
			// One bucket holds more than a batch.
			keys, values = make([]K, 2*len(keys)), make([]V, 2*len(values))
		case errors.Is(err, ebpf.ErrNotSupported) && cpus == 1:
			return oneByOne(m, yield)
		case err != nil:
			return err
		}
	}
}

// oneByOne reads a map without batches: on kernels that have none, and as bytes.
func oneByOne[K, V any](m *ebpf.Map, yield func(K, V) bool) error {
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		if !yield(k, v) {
			return nil
		}
	}
	if err := it.Err(); !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil // it changes faster than it can be read; what was seen was there
}
