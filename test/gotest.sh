# shellcheck shell=bash
# For scripts that run tests.

# tests runs a list of packages with go test's flags. What fails runs once more, its whole test by itself: on a busy machine one late
# packet must not hide what hundreds of tests say. It is named in the file $FLAKY, if that is set, and what fails twice fails. So does a
# process that dies, since nobody knows of the tests that it had still to run.
tests() {
	local format=$1 packages=$2 report events dead
	shift 2
	report=$(mktemp) events=$(mktemp)
	go run gotest.tools/gotestsum@v1.13.0 --format "$format" --rerun-fails=1 --rerun-fails-max-failures=10 \
		--rerun-fails-run-root-test --rerun-fails-report "$report" --jsonfile "$events" --packages "$packages" -- "$@"
	local status=$?
	cat "$report" >>"${FLAKY:-/dev/null}"
	dead=$(without_end "$events")
	rm -f "$report" "$events"
	[ -z "$dead" ] || { printf 'the process died in these, and what should have come after them did not run:\n%s\n' "$dead"; return 1; }
	return $status
}

# without_end names the tests that began and have no result, in go test's events.
without_end() {
	sed -nE 's/.*"Action":"(run|pass|fail|skip)","Package":"([^"]*)","Test":"([^"]*)".*/\1 \2.\3/p' "$1" |
		awk '{ open[$2] += $1 == "run" ? 1 : -1 } END { for (t in open) if (open[t] > 0) print t }'
}
