package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshd/meshd/ipvs"
)

// The labels of a service that say how its connections are spread.
const (
	labelAlgorithm = "mesh.lb"
	labelAffinity  = "mesh.lb.affinity"
	labelLocality  = "mesh.lb.locality"
	labelEject     = "mesh.lb.eject"
	labelEjectFor  = "mesh.lb.eject.for"
	labelIngress   = "mesh.ingress"
)

// balanceLabels are those after the first.
func balanceLabels() []string {
	return []string{labelAffinity, labelLocality, labelEject, labelEjectFor, labelWeight}
}

// usualEjection is in force where no label says otherwise. Five failures in a row are
// hardly chance; ten seconds are short enough to be wrong for.
func usualEjection() ipvs.Ejection {
	return ipvs.Ejection{After: 5, Within: 30 * time.Second, First: 10 * time.Second, Longest: 5 * time.Minute}
}

// balance is what these labels say.
type balance struct {
	algorithm ipvs.Algorithm
	affinity  time.Duration
	local     bool
	ejection  ipvs.Ejection
	// ingress is what labelIngress says of published ports.
	ingress string
}

// The values of labelIngress.
const (
	ingressMesh   = "mesh"
	ingressPrefer = "prefer"
	ingressLocal  = "local"
	ingressDirect = "dsr"
)

// CheckBalance says what is wrong with the labels that tell how a service's
// connections are spread, unknown ones among them. Others are not looked at.
func CheckBalance(labels map[string]string) error {
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		if !strings.HasPrefix(l, labelAlgorithm+".") {
			continue
		}
		if !slices.Contains(balanceLabels(), l) {
			return fmt.Errorf("unknown label %s: there are %s, %s", l, labelAlgorithm, strings.Join(balanceLabels(), ", "))
		}
	}
	if _, err := weightsOf(labels); err != nil {
		return err
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
	var err error
	if b.ejection, err = ejectionOf(labels); err != nil {
		failed = err
	}
	switch v := labels[labelIngress]; v {
	case "", ingressMesh, ingressPrefer, ingressLocal, ingressDirect:
		b.ingress = v
	default:
		failed = fmt.Errorf("label %s=%s: must be %s, %s, %s or %s", labelIngress, v, ingressMesh, ingressPrefer, ingressLocal, ingressDirect)
	}
	return b, failed
}

// ejectionOf reads the labels that say when a backend is ejected.
func ejectionOf(labels map[string]string) (ipvs.Ejection, error) {
	e := usualEjection()
	when, long := labels[labelEject], labels[labelEjectFor]
	if when == "off" {
		e = ipvs.Ejection{}
	} else if when != "" {
		after, within, _ := strings.Cut(when, "/")
		n, err := strconv.Atoi(after)
		if e.After = n; err != nil || n < 1 || n > ipvs.MaxFailures || !wholeSeconds(within, &e.Within) {
			return usualEjection(), fmt.Errorf("label %s=%s: must be off or FAILURES/TIME such as 5/30s: 1 to %d failures in a row within whole seconds, at most %v",
				labelEject, when, ipvs.MaxFailures, ipvs.MaxEjection)
		}
	}
	if long != "" {
		first, longest, _ := strings.Cut(long, "/")
		times := usualEjection()
		if !wholeSeconds(first, &times.First) || !wholeSeconds(longest, &times.Longest) || times.Longest < times.First {
			return e, fmt.Errorf("label %s=%s: must be TIME/TIME such as 10s/5m: how long the first time and how long at most, whole seconds, at most %v",
				labelEjectFor, long, ipvs.MaxEjection)
		}
		if e.After > 0 {
			e.First, e.Longest = times.First, times.Longest
		}
	}
	return e, nil
}

// wholeSeconds reads a time that an ipvs.Ejection may have; false: it is none.
func wholeSeconds(text string, into *time.Duration) bool {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > ipvs.MaxEjection || d%time.Second != 0 {
		return false
	}
	*into = d
	return true
}

// spread gives the services the labels' wishes.
func spread(services []ipvs.Service, labels map[string]string) []ipvs.Service {
	b, _ := balanceOf(labels)
	for i := range services {
		services[i].Algorithm, services[i].Affinity, services[i].PreferLocal = b.algorithm, b.affinity, b.local
		services[i].Ejection = b.ejection
		if services[i].Published() {
			services[i].PreferLocal = b.ingress == ingressPrefer || b.local && (b.ingress == "" || b.ingress == ingressDirect)
			services[i].LocalOnly = b.ingress == ingressLocal
			services[i].DirectReturn = b.ingress == ingressDirect
		}
	}
	return services
}
