#!/usr/bin/env bash
# Installs what the lab needs and this machine lacks, from Debian's (or Ubuntu's) packages. Says what and why; does nothing if nothing is
# missing; stops and disables nothing.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# program, package, why
needs="
dockerd   docker.io  each node of the lab runs a Docker Engine
iptables  iptables   the Docker Engine uses it in containers
ip        iproute2   for looking into the namespaces of the lab
nft       nftables   for looking at the packet filters of the lab
"

missing=() packages=() reasons=()
while read -r program package why; do
	[ -n "$program" ] || continue
	command -v "$program" >/dev/null && continue
	missing+=("$program") packages+=("$package") reasons+=("$package: $why")
done <<<"$needs"

if [ ${#missing[@]} -eq 0 ]; then
	[ "$(id -u)" -eq 0 ] || { echo "setup: the lab needs root (namespaces, Docker Engines); run this as root" >&2; exit 1; }
	exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "setup: missing: ${missing[*]}. On Debian or Ubuntu as root 'make setup' installs them; elsewhere install your distribution's packages of Docker Engine, iptables, iproute2 and nftables." >&2
	exit 1
fi

echo "setup: installing from this distribution's packages:"
printf '  %s\n' "${reasons[@]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "setup: apt-get could not install ${packages[*]} (its last lines are above)" >&2
	exit 1
fi
for program in "${missing[@]}"; do
	command -v "$program" >/dev/null || { echo "setup: $program is still missing after the installation" >&2; exit 1; }
done
echo "setup: done"
