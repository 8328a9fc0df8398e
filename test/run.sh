#!/usr/bin/env bash
# Runs every test: vet, the packages' own tests, then end to end over the lab. Ends with one line in the style of go test.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
began=$SECONDS failed=0

step() {
	printf '\n=== %s\n' "$1"
	shift
	local from=$SECONDS
	if "$@"; then
		printf -- '--- ok (%ds)\n' $((SECONDS - from))
	else
		printf -- '--- FAIL (%ds): %s\n' $((SECONDS - from)) "$*"
		failed=1
	fi
}

mapfile -t packages < <(go list ./... | grep -v -e /test/e2e -e /test/bench)
step "go vet" go vet ./...
step "packages" go test -timeout 10m "${packages[@]}"
# Skips are said aloud; one package at a time, since each scenario has the machine to itself.
if [ -d test/e2e ]; then
	step "end to end, over the lab" go test -count=1 -p 1 -timeout 20m -v ./test/e2e/...
fi

if [ $failed -ne 0 ]; then
	printf '\nFAIL\tgithub.com/meshd/meshd\t%ds\n' $((SECONDS - began))
	exit 1
fi
printf '\nok  \tgithub.com/meshd/meshd\t%ds\n' $((SECONDS - began))
