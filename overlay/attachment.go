package overlay

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
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

// Attach makes a container's interface and returns the name of the end that is
// to be moved into the container. To attach the same again changes nothing. An
// older attachment with an address of the new one is removed: its container is
// gone and nobody said so.
func (o *Overlay) Attach(a Attachment) (peerName string, err error) {
	if err := a.check(); err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	f, err := o.facts(o.desired(), false)
	if err != nil {
		return "", err
	}
	for _, p := range f.ports {
		if p.ID != a.ID && p.sharesAddress(a) {
			o.cfg.Logger.Warn("attachment replaced by another with its address", "old", p.ID, "new", a.ID)
			if err := o.kernel.removePort(p.ID); err != nil {
				return "", err
			}
		}
	}
	if err := o.kernel.addPort(a, attachmentMTU(o.desired(), f, a)); err != nil {
		return "", err
	}
	if err := o.reconcile(false); err != nil && !o.holds(a.ID) {
		return "", errors.Join(fmt.Errorf("attach %s: %w", a.ID, err), o.kernel.removePort(a.ID))
	}
	return link.PeerName(a.ID), nil
}

// holds says whether the kernel has all that an attachment needs.
func (o *Overlay) holds(id string) bool {
	ports, err := o.kernel.attached()
	if err != nil {
		return false
	}
	for _, p := range ports {
		if p.ID != id {
			continue
		}
		w := objects{}
		o.cfg.Driver.objects().port(w, o.desired(), p)
		return !missingAny(w, o.held)
	}
	return false
}

func missingAny(want, held objects) bool {
	for o, v := range want {
		if held[o] != v {
			return true
		}
	}
	return false
}

// Detach removes a container's interface; one that is not there is no error.
func (o *Overlay) Detach(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.kernel.removePort(id); err != nil {
		return err
	}
	delete(o.ports, id)
	if err := o.reconcile(false); err != nil {
		// The container is detached; what else is wrong is Run's to repair and to tell.
		o.cfg.Logger.Debug("overlay incomplete after detaching", "id", id, "error", err)
	}
	return nil
}

// Attachments lists the containers' interfaces that there are.
func (o *Overlay) Attachments() []Attachment {
	o.mu.Lock()
	defer o.mu.Unlock()
	ports, err := o.kernel.attached()
	if err != nil {
		o.cfg.Logger.Warn("list attachments", "error", err)
		return nil
	}
	out := make([]Attachment, 0, len(ports))
	for _, p := range ports {
		out = append(out, p.Attachment)
	}
	return out
}

// Namespace opens the network namespace of the container that has an address on a network; nil: it is in none yet, or has ended.
func (o *Overlay) Namespace(vni uint32, addr netip.Addr) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ports, err := o.kernel.attached()
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		if p.VNI == vni && p.nsid >= 0 && slices.ContainsFunc(p.Addrs, func(a netip.Prefix) bool { return a.Addr() == addr }) {
			return o.kernel.namespace(p.nsid)
		}
	}
	return nil, nil
}

func (p port) sharesAddress(a Attachment) bool {
	if p.VNI != a.VNI {
		return false
	}
	for _, x := range p.Addrs {
		for _, y := range a.Addrs {
			if x.Addr() == y.Addr() {
				return true
			}
		}
	}
	return false
}
