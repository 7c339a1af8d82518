#!/usr/bin/env bash
# Runs each fuzz target for a time or a number of inputs (fuzz.sh 2m, fuzz.sh 2000x).
# A package is built once for all its targets, and two packages have their turn
# at the same time. What a target learns stays in Go's cache, as with go test -fuzz;
# an input that fails is left under the package's testdata. A number of inputs is
# for a quick look: coverage does not guide it, which would cost a build of
# everything with counters in it.
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZ_FOR=${1:?a time (2m) or a count (2000x)} GO=${GO:-go}
WORK=$(mktemp -d)
CACHE=$($GO env GOCACHE)/fuzz/$($GO list -m)
export WORK CACHE
trap 'rm -rf "$WORK"' EXIT

package() {
	set -euo pipefail
	local dir=$1 name=${1//\//-} target log
	log=$WORK/$name.log
	case $FUZZ_FOR in
	*x) $GO test -c -o "$WORK/$name" "./$dir" ;;
	*) $GO test -c -fuzz=. -o "$WORK/$name" "./$dir" ;;
	esac
	mkdir -p "$CACHE/$dir"
	cd "$dir"
	for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' ./*_test.go | sed 's/^func //' | sort -u); do
		# With a time up to Go 1.26 a target now and then fails with the deadline
		# of its own fuzzing (golang.org/issue/75804).
		if ! "$WORK/$name" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$FUZZ_FOR" -test.parallel 1 \
			-test.fuzzcachedir "$CACHE/$dir" >"$log" 2>&1 </dev/null; then
			if grep -q 'Failing input' "$log" || ! grep -q 'context deadline exceeded' "$log"; then
				cat "$log"
				return 1
			fi
		fi
		echo "fuzz $dir $target: $(grep -o 'execs: [0-9]*' "$log" | tail -1)"
	done
	rm -f "$WORK/$name"
}
export -f package

grep -rl --include='*_test.go' '^func Fuzz' internal test | xargs -n1 dirname | sort -u | xargs -P2 -I{} bash -c 'package {}'
