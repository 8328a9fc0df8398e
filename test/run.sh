#!/usr/bin/env bash
# Runs every test: vet, the packages' own tests, some of them under other kernels, then end to end over the lab; then looks for what they
# left behind. Ends with one line in the style of go test. Reads nothing from the terminal.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
. test/gotest.sh
export FLAKY
began=$SECONDS failed=() FLAKY=$(mktemp)
trap 'rm -f "$FLAKY"' EXIT

step() {
	local name=$1 from=$SECONDS
	shift
	printf '\n=== %s\n' "$name"
	if "$@"; then
		printf -- '--- ok: %s (%ds)\n' "$name" $((SECONDS - from))
	else
		printf -- '--- FAIL: %s (%ds): %s\n' "$name" $((SECONDS - from)) "${*:1:3} ..."
		failed+=("$name")
	fi
}

# nothing_left compares with what was there before; what ends with a delay has a few seconds for it.
nothing_left() {
	local deadline=$((SECONDS + 10)) left
	while left=$(comm -13 <(echo "$before") <(test/leftovers.sh)) && [ -n "$left" ]; do
		[ $SECONDS -lt $deadline ] || { printf 'left behind:\n%s\n' "$left"; return 1; }
		sleep 0.5
	done
}

before=$(test/leftovers.sh)
mapfile -t packages < <(go list ./... | grep -v -e /test/e2e -e /test/churn -e /test/bench)
step "go vet" go vet ./...
step "what end-to-end tests run" make --no-print-directory voting-images registry
step "packages" tests pkgname "${packages[*]}" -timeout 10m
step "other kernels, in virtual machines" test/vm/run.sh
# Verbose: skips are said aloud and progress is seen; -p 1: each scenario has the machine to itself.
step "end to end, over the lab" tests standard-verbose "./test/e2e/... ./test/churn" -count=1 -p 1 -timeout 25m
step "nothing left behind" nothing_left

[ ! -s "$FLAKY" ] || { printf '\nran twice, since the first run failed:\n'; cat "$FLAKY"; }
if [ ${#failed[@]} -ne 0 ]; then
	printf '\nfailed:'; printf ' [%s]' "${failed[@]}"
	printf '\nFAIL\tgithub.com/meshd/meshd\t%ds\n' $((SECONDS - began))
	exit 1
fi
printf '\nok  \tgithub.com/meshd/meshd\t%ds\n' $((SECONDS - began))
