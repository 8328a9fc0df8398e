package overlay

// Drops counts the packets that the data path dropped, by reason, since its
// maps were made; see datapath/drops.go for the reasons.
func (o *Overlay) Drops() (map[string]uint64, error) { return o.kernel.drops() }
