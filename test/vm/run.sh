#!/usr/bin/env bash
# Runs the tests of the table "tests" under other kernels, each row in a virtual machine of its own. Where none can run it says so, loudly,
# and is content; with CI set it is not.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. test/gotest.sh
exec </dev/null

# without says why no virtual machine runs here.
without() {
	printf '\nSKIPPED: NO TEST RAN ON OTHER KERNELS: %s\n\n' "$1" >&2
	[ -z "${CI:-}" ] || exit 1
	exit 0
}

[ "$(uname -m)" = x86_64 ] || without "the guests are x86-64, this machine is $(uname -m)"
[ "$(id -u)" -eq 0 ] || without "it takes root to share files with a guest"
test/vm/setup.sh || without "setup.sh, above, says what is missing"
go build -o bin/vm ./test/vm || exit 1

# What fails in a guest must be seen here.
bin/vm -kernel 6.12 sh -c 'exit 7' 2>/dev/null
status=$?
[ $status -eq 7 ] || { echo "a program's status 7 came out of the guest as $status" >&2; exit 1; }

failed=0
while read -r kernel package arguments; do
	case $kernel in '' | '#'*) continue ;; esac
	echo "Linux $kernel: $package $arguments"
	# shellcheck disable=SC2086
	tests pkgname "$package" -count=1 -timeout 10m -exec "$PWD/bin/vm -kernel $kernel" $arguments || failed=1
done <test/vm/tests
exit $failed
