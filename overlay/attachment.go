package overlay

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/meshd/meshd/overlay/datapath"
)

// aliasPrefix starts the alias of an interface that is an attachment.
const aliasPrefix = "mesh:"

// alias is an Attachment as its interface carries it: the kernel takes 255 bytes.
type alias struct {
	ID        string         `json:"i"`
	NetworkID string         `json:"n"`
	VNI       uint32         `json:"v"`
	Addrs     []netip.Prefix `json:"a"`
	MAC       string         `json:"m,omitempty"` // without colons; none: as MACFor
	TaskID    string         `json:"t,omitempty"`
	Mesh      bool           `json:"g,omitempty"`
}

func encodeAlias(a Attachment) (string, error) {
	short := alias(a)
	short.MAC = strings.ReplaceAll(a.MAC, ":", "")
	if len(a.Addrs) > 0 && a.MAC == MACFor(a.Addrs[0].Addr()) {
		short.MAC = ""
	}
	b, err := json.Marshal(short)
	return aliasPrefix + string(b), err
}

// decodeAlias gives false for an alias that is not ours.
func decodeAlias(s string) (Attachment, bool) {
	text, ok := strings.CutPrefix(s, aliasPrefix)
	if !ok {
		return Attachment{}, false
	}
	var a alias
	if err := json.Unmarshal([]byte(text), &a); err != nil || a.ID == "" {
		return Attachment{}, false
	}
	if mac, err := hex.DecodeString(a.MAC); err == nil && len(mac) == 6 {
		a.MAC = net.HardwareAddr(mac).String()
	} else if a.MAC == "" && len(a.Addrs) > 0 {
		a.MAC = MACFor(a.Addrs[0].Addr())
	}
	return Attachment(a), true
}

// ErrBadAttachment means that an attachment lacks something.
var ErrBadAttachment = errors.New("bad attachment")

// maxVNI is the largest VXLAN network identifier, RFC 7348.
const maxVNI = 1<<24 - 1

func (a Attachment) check() error {
	switch {
	case len(a.ID) < 12:
		return fmt.Errorf("%w: ID %q is shorter than 12 characters", ErrBadAttachment, a.ID)
	case a.VNI == 0 || a.VNI > maxVNI:
		return fmt.Errorf("%w: VNI %d", ErrBadAttachment, a.VNI)
	case len(a.Addrs) == 0:
		return fmt.Errorf("%w: no address", ErrBadAttachment)
	}
	if _, err := parseMAC(a.MAC); err != nil {
		return fmt.Errorf("%w: %w", ErrBadAttachment, err)
	}
	return nil
}

func parseMAC(s string) (datapath.MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return datapath.MAC{}, err
	}
	if len(hw) != 6 {
		return datapath.MAC{}, fmt.Errorf("%s is no Ethernet address", s)
	}
	return datapath.MAC(hw), nil
}

// MACFor derives a container's MAC from its address' last four bytes, as Docker's
// own drivers do from an IPv4 address: equal on every node and without a table.
func MACFor(a netip.Addr) string {
	b := a.As16()
	return net.HardwareAddr{0x02, 0x42, b[12], b[13], b[14], b[15]}.String()
}
