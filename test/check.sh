#!/usr/bin/env bash
# What must hold of the source itself: formatting, vet, import rules, compiled BPF objects that match their source, linters where they are.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=0
problem() { echo "check: $*" >&2; failed=1; }

unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0r gofmt -l)
[ -z "$unformatted" ] || problem "not gofmt'd: $unformatted"
go vet ./... || problem "go vet"
go test ./test/arch || problem "import rules"

# The objects are compiled anew beside the committed ones, compared, and the committed ones put back.
clang=$(git grep -ho 'bpf2go -cc [^ ]*' -- '*.go' | awk '{print $3}' | sort -u | head -n 1)
if [ -n "$clang" ] && command -v "$clang" >/dev/null; then
	saved=$(mktemp -d)
	mapfile -t objects < <(git ls-files '*_bpfe*.o' '*_bpfe*.go')
	cp --parents "${objects[@]}" "$saved"
	if go generate ./...; then
		for object in "${objects[@]}"; do
			cmp -s "$object" "$saved/$object" || problem "$object differs from what its source gives: make generate, and commit it"
		done
	else
		problem "go generate"
	fi
	cp -r "$saved/." .
	rm -rf "$saved"
else
	echo "check: no ${clang:-clang}: the compiled BPF objects were not compared with their source"
fi

if command -v golangci-lint >/dev/null; then
	golangci-lint run ./... || problem "golangci-lint"
else
	echo "check: no golangci-lint: skipped"
fi
[ $failed -ne 0 ] || echo "check: ok"
exit $failed
