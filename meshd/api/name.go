package api

import (
	"fmt"
	"math/rand/v2"
)

var (
	moods   = [...]string{"brave", "bright", "calm", "clever", "cosmic", "eager", "gentle", "happy", "keen", "kind", "lucid", "merry", "proud", "quiet", "swift", "witty"}
	persons = [...]string{"babbage", "bell", "cerf", "curie", "dijkstra", "euler", "floyd", "gauss", "hopper", "kahn", "knuth", "lamport", "lovelace", "noether", "perlman", "turing"}
)

// randomName names a service whose creator did not. The number keeps two such
// services apart most of the time; a clash is refused like any other.
func randomName() string {
	const numbers = 10000
	return fmt.Sprintf("%s_%s%d", moods[rand.N(len(moods))], persons[rand.N(len(persons))], rand.N(numbers))
}
