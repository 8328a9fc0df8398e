package overlay

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands of bpf(2) that a test needs to harm a pinned map.
const (
	bpfMapUpdate, bpfMapDelete, bpfMapNextKey, bpfObjGet = 2, 3, 4, 7
)

// empty deletes all that a pinned map holds, or overwrites it with zeros if it is
// an array, as somebody's debugging might.
func empty(path string) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	get := struct {
		path  uint64
		fd    uint32
		flags uint32
	}{path: uint64(uintptr(unsafe.Pointer(name)))}
	fd, err := bpf(bpfObjGet, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var key, zero [128]byte
	type element struct {
		fd         uint32
		_          uint32
		key, value uint64
		flags      uint64
	}
	for range 10000 {
		next := element{fd: uint32(fd), value: uint64(uintptr(unsafe.Pointer(&key)))} // no key: the first one
		if _, err := bpf(bpfMapNextKey, unsafe.Pointer(&next), unsafe.Sizeof(next)); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		e := element{fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(&key)))}
		_, err := bpf(bpfMapDelete, unsafe.Pointer(&e), unsafe.Sizeof(e))
		if errors.Is(err, unix.EINVAL) {
			e.value = uint64(uintptr(unsafe.Pointer(&zero)))
			_, err = bpf(bpfMapUpdate, unsafe.Pointer(&e), unsafe.Sizeof(e))
			return err
		}
		if err != nil {
			return fmt.Errorf("delete from %s: %w", path, err)
		}
	}
	return nil // somebody puts back as fast as we delete
}

// emptySlots takes the forwarding halves out of the program array.
func emptySlots(path string) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	get := struct {
		path  uint64
		fd    uint32
		flags uint32
	}{path: uint64(uintptr(unsafe.Pointer(name)))}
	fd, err := bpf(bpfObjGet, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for slot := uint32(4); slot < 8; slot++ {
		e := struct {
			fd, _             uint32
			key, value, flags uint64
		}{fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(&slot)))}
		if _, err := bpf(bpfMapDelete, unsafe.Pointer(&e), unsafe.Sizeof(e)); err != nil {
			return err
		}
	}
	return nil
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
