#!/usr/bin/env bash
# Installs what the lab needs and this machine lacks, from Debian's (or Ubuntu's) packages. Says what and why; does nothing if nothing is
# missing; stops and disables nothing.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# program, package, why
needs="
dockerd   docker.io  each node of the lab runs a Docker Engine
docker    docker-cli the official client, to drive the cluster with
iptables  iptables   the Docker Engine uses it in containers
ip        iproute2   for looking into the namespaces of the lab
nft       nftables   for looking at the packet filters of the lab
curl      curl       for calling services from outside of the cluster
python3-docker python3-docker to drive the cluster with the SDK for Python
"

# What is no program: the SDK, for the distribution's own Python.
there() {
	case $1 in
	python3-docker) /usr/bin/python3 -c 'import docker' 2>/dev/null ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=() packages=() reasons=()
while read -r program package why; do
	[ -n "$program" ] || continue
	there "$program" && continue
	missing+=("$program") packages+=("$package") reasons+=("$package: $why")
done <<<"$needs"

if [ ${#missing[@]} -eq 0 ]; then
	[ "$(id -u)" -eq 0 ] || { echo "setup: the lab needs root (namespaces, Docker Engines); run this as root" >&2; exit 1; }
	exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "setup: missing: ${missing[*]}. On Debian or Ubuntu as root 'make setup' installs them; elsewhere install your distribution's packages of Docker Engine and client, iptables, iproute2, nftables and curl." >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

echo "setup: reading the package lists"
# One broken entry in the machine's list of sources need not matter: what is missing is said by the installation.
apt-get -q update >"$log" 2>&1 || { tail -n 5 "$log" >&2; echo "setup: apt-get update failed; going on with the lists that are here" >&2; }
# Debian 12's docker.io holds the client, too; later releases have it in a package of its own.
if ! apt-cache show docker-cli >/dev/null 2>&1; then
	packages=("${packages[@]/#docker-cli/docker.io}") reasons=("${reasons[@]/#docker-cli/docker.io}")
fi

echo "setup: installing from this distribution's packages:"
printf '  %s\n' "${reasons[@]}"
if ! apt-get -q install -y --no-install-recommends "${packages[@]}" </dev/null 2>&1 | tee "$log" | sed -un 's/^\(Setting up [^ ]*\).*/  \1/p'; then
	tail -n 20 "$log" >&2
	echo "setup: apt-get could not install ${packages[*]} (its last lines are above)" >&2
	exit 1
fi
hash -r
for program in "${missing[@]}"; do
	there "$program" || { echo "setup: $program is still missing after the installation" >&2; exit 1; }
done
echo "setup: done"
