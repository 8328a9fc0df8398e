package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// The labels of a service that say how its connections are spread.
const (
	labelAlgorithm = "mesh.lb"
	labelAffinity  = "mesh.lb.affinity"
	labelLocality  = "mesh.lb.locality"
)

// balance is what these labels say.
type balance struct {
	algorithm ipvs.Algorithm
	affinity  time.Duration
	local     bool
}

// CheckBalance says what is wrong with the labels that tell how a service's
// connections are spread, unknown ones among them. Others are not looked at.
func CheckBalance(labels map[string]string) error {
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		if !strings.HasPrefix(l, labelAlgorithm+".") {
			continue
		}
		if l != labelAffinity && l != labelLocality {
			return fmt.Errorf("unknown label %s: there are %s, %s and %s", l, labelAlgorithm, labelAffinity, labelLocality)
		}
	}
	_, err := balanceOf(labels)
	return err
}

// balanceOf reads the labels. What makes no sense, from a manager of another
// version, is left out: the service must work all the same.
func balanceOf(labels map[string]string) (balance, error) {
	var b balance
	var failed error
	if v, ok := labels[labelAlgorithm]; ok {
		if a := ipvs.Algorithm(v); slices.Contains(ipvs.Algorithms(), a) {
			b.algorithm = a
		} else {
			failed = fmt.Errorf("label %s=%s: must be one of %v", labelAlgorithm, v, ipvs.Algorithms())
		}
	}
	if v, ok := labels[labelAffinity]; ok {
		d, err := time.ParseDuration(v)
		if err == nil && d >= 0 && d <= ipvs.MaxAffinity && d%time.Second == 0 {
			b.affinity = d
		} else {
			failed = fmt.Errorf("label %s=%s: must be a duration of whole seconds, at most %v", labelAffinity, v, ipvs.MaxAffinity)
		}
	}
	switch v := labels[labelLocality]; v {
	case "", "none":
	case "node":
		b.local = true
	default:
		failed = fmt.Errorf("label %s=%s: must be node or none", labelLocality, v)
	}
	return b, failed
}

// spread gives the services the labels' wishes.
func spread(services []ipvs.Service, labels map[string]string) []ipvs.Service {
	b, _ := balanceOf(labels)
	for i := range services {
		services[i].Algorithm, services[i].Affinity, services[i].PreferLocal = b.algorithm, b.affinity, b.local
	}
	return services
}
