# shellcheck shell=bash
# For scripts that run tests.

# tests runs a list of packages with go test's flags. What fails runs once more, its whole test by itself: on a busy machine one late
# packet must not hide what hundreds of tests say. It is named in the file $FLAKY, if that is set, and what fails twice fails.
tests() {
	local format=$1 packages=$2 report
	shift 2
	report=$(mktemp)
	go run gotest.tools/gotestsum@v1.13.0 --format "$format" --rerun-fails=1 --rerun-fails-max-failures=10 \
		--rerun-fails-run-root-test --rerun-fails-report "$report" --packages "$packages" -- "$@"
	local status=$?
	cat "$report" >>"${FLAKY:-/dev/null}"
	rm -f "$report"
	return $status
}
