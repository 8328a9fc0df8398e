#!/usr/bin/env bash
# Installs what the resolver's benchmark needs besides the lab: dnsperf from the distribution's packages, and CoreDNS, built from its module
# into build/bench. Says what it does; does nothing if nothing is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
coredns=v1.12.4

if ! command -v dnsperf >/dev/null; then
	echo "setup: installing dnsperf from this distribution's packages"
	DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends dnsperf </dev/null >/dev/null
fi
if [ ! -x build/bench/coredns ]; then
	echo "setup: building CoreDNS $coredns (some minutes)"
	GOBIN=$PWD/build/bench CGO_ENABLED=0 go install "github.com/coredns/coredns@$coredns"
fi
