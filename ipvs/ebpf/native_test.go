package ebpf

import "encoding/binary"

// cb words hold addresses as the programs store them: bytes in order.
func nativeEndian(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func putNative(b []byte, v uint32) { binary.NativeEndian.PutUint32(b, v) }
