#!/usr/bin/env bash
# The whole thing on one machine: three nodes, a swarm of three managers, two services on an overlay network, a published port.
# Ends with status 0 only if every call of the services answered as it should.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PWD/bin:$PATH
lab=${LAB:-lab}
# How to say it again in another shell.
for_lab='' name_lab=''
[ "$lab" = lab ] || for_lab="LAB=$lab " name_lab=" --name $lab"
port=8080
began=$SECONDS

bold='' plain=''
[ ! -t 1 ] || bold=$'\033[1m' plain=$'\033[0m'
say()  { printf '\n%s[%3ds] %s%s\n' "$bold" $((SECONDS - began)) "$*" "$plain"; }
fail() { printf '\ndemo: FAILED: %s\n  bin/meshctl lab logs --name %s node1 (node2, node3) tells more; %smake demo-down cleans up\n' "$*" "$lab" "$for_lab" >&2; exit 1; }
trap 'fail "at line $LINENO of test/demo/demo.sh"' ERR
trap 'fail "interrupted"' INT TERM
mesh() { meshctl --host "unix:///run/meshd/$lab/node1/meshd.sock" "$@"; }
each_node() { meshctl lab ls --name "$lab" --format '{{.Name}} {{.Address}}'; }

# within SECONDS COMMAND: tries until it succeeds; its last words are shown if it never does.
within() {
	local deadline=$((SECONDS + $1)) out
	shift
	until out=$("$@" 2>&1); do
		[ $SECONDS -lt $deadline ] || { printf '%s\n' "$out" >&2; return 1; }
		sleep 0.2
	done
	[ -z "$out" ] || printf "%s\n" "$out"
}

# all_run SERVICE N: N tasks of the service run.
all_run() { [ "$(mesh service ls --filter "name=$1" --format '{{.Replicas}}')" = "$2/$2" ] || { mesh service ps "$1" --no-trunc; return 1; }; }

# task_of SERVICE: socket and container of one task.
task_of() {
	local name container nodes
	nodes=$(each_node) # whole, for who stops reading a pipe early makes its writer fail
	while read -r name _; do
		container=$(meshctl --host "unix:///run/meshd/$lab/$name/meshd.sock" ps -q --filter "label=com.docker.swarm.service.name=$1")
		container=${container%%$'\n'*}
		[ -z "$container" ] || { echo "unix:///run/meshd/$lab/$name/meshd.sock $container $name"; return; }
	done <<<"$nodes"
	return 1
}

say "Three nodes, each with its own Docker Engine and meshd, made into a swarm of three managers"
former=$(meshctl lab down --name "$lab" 2>&1) || fail "the lab of an earlier run could not be removed: $former"
meshctl lab up --name "$lab" --nodes 3 --managers 3 || fail "the lab did not come up"

say "The sample image, made from our own program without a registry, into every engine"
meshctl lab load --name "$lab" build/sample.tar || fail "the image did not load"

say "An overlay network, and two services on it"
mesh network create --driver overlay demo >/dev/null || fail "network create"
mesh service create --detach --no-resolve-image --name api --network demo --replicas 2 meshd/sample:latest >/dev/null || fail "service create api"
mesh service create --detach --no-resolve-image --name web --network demo --replicas 3 --publish "$port:8080" meshd/sample:latest >/dev/null || fail "service create web"
within 60 all_run api 2 >/dev/null || fail "service api does not run"
within 60 all_run web 3 >/dev/null || fail "service web does not run"

say "Nodes, services, tasks"
mesh node ls
echo
mesh service ls
echo
mesh service ps api web

say "The published port $port through every node, from a machine outside of the cluster"
client=$(meshctl lab exec --name "$lab" client -- ip -br -4 address show dev eth0 | awk '{sub("/.*", "", $3); print $3}')
while read -r node address; do
	echo "-- http://$address:$port ($node)"
	answer=$(within 10 meshctl lab exec --name "$lab" client -- bin/sample get "http://$address:$port/?text") || fail "no answer through $node"
	sed 's/^/   /' <<<"$answer"
	grep -qx "client $client" <<<"$answer" || fail "the task behind $node did not see the client's real address, $client"
done < <(each_node)

say "Service api by its name, from a container of web"
read -r socket container node < <(task_of web) || fail "no container of web"
echo "-- sample lookup api; sample get http://api:8080 (in container $container on $node)"
within 10 meshctl --host "$socket" exec "$container" sample lookup api | sed 's/^/   /' || fail "the name api does not resolve"
within 10 meshctl --host "$socket" exec "$container" sample get 'http://api:8080/?text' | sed 's/^/   /' || fail "api does not answer by its name"

nodes=$(each_node)
read -r _ first <<<"$nodes"
say "It works. Look around:"
cat <<END
  export PATH=$PWD/bin:\$PATH
  eval "\$(meshctl lab env$name_lab node1)"    # docker and meshctl speak with node1 from now on
  meshctl node ls
  docker service ps web
  docker service scale web=6
  ip netns exec $lab-client curl -s '$first:$port/?text'    # from outside of the cluster
  meshctl lab kill$name_lab node3    # power cut; then once more: docker service ps web
  meshctl lab logs$name_lab node1
Clean up:
  ${for_lab}make demo-down
END
