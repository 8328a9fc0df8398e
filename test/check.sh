#!/usr/bin/env bash
# What must hold of the source itself, without root and in a few minutes: formatting, vet, compiled BPF objects that match their source,
# import rules and the other unit tests, linters where they are.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
failed=0
saying()  { echo "check: $*"; }
problem() { echo "check: FAIL: $*" >&2; failed=1; }
sources() { git ls-files -z --cached --others --exclude-standard "$@"; }

# The objects are compiled anew in a copy of the tree: nobody who builds meanwhile sees half of them.
generated_are_current() {
	local copy object
	copy=$(mktemp -d)
	sources | xargs -0 cp --parents -t "$copy" 2>/dev/null
	if (cd "$copy" && go generate ./...); then
		while read -r -d '' object; do
			cmp -s "$object" "$copy/$object" || problem "$object is not what its source gives: make generate, and commit it"
		done < <(git ls-files -z '*_bpfe*.o' '*_bpfe*.go')
	else
		problem "go generate"
	fi
	rm -rf "$copy"
}

saying "gofmt"
unformatted=$(sources '*.go' | xargs -0r gofmt -l)
[ -z "$unformatted" ] || problem "not gofmt'd: $unformatted"

saying "go vet"
go vet ./... || problem "go vet"

clang=$(git grep -ho 'bpf2go -cc [^ ]*' -- '*.go' | awk '{print $3}' | sort -u | head -n 1)
if [ -n "$clang" ] && command -v "$clang" >/dev/null; then
	saying "generated BPF objects"
	generated_are_current
else
	saying "no ${clang:-clang}: the compiled BPF objects were not compared with their source"
fi

# Root would be tempted to run what needs root, which is for make test: it becomes nobody in a user namespace.
saying "unit tests that need no root"
drop=()
[ "$(id -u)" -ne 0 ] || ! unshare --user --map-user=65534 true 2>/dev/null || drop=(-exec 'unshare --user --map-user=65534')
mapfile -t packages < <(go list ./... | grep -v -e /test/e2e -e /test/bench)
go test -short -timeout 3m "${drop[@]}" "${packages[@]}" || problem "unit tests"

if command -v golangci-lint >/dev/null; then
	saying "golangci-lint"
	golangci-lint run ./... || problem "golangci-lint"
else
	saying "no golangci-lint: skipped"
fi
[ $failed -ne 0 ] || echo "check: ok"
exit $failed
