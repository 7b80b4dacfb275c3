#!/bin/sh
# Lint, types, and every test of Weft in one run of node's test runner, whose summary ends the output. Nothing may skip.
#
#   test.sh             everything
#   test.sh FILE…       these test files only
set -u
cd "$(dirname "$0")/.."
PATH=$PWD/node_modules/.bin:$PATH
failed=

step() {
  name=$1
  shift
  echo "== $name"
  "$@" || failed="$failed, $name"
}

if [ $# -eq 0 ]; then
  step lint oxlint
  step format biome check --reporter=summary .
  step types tsc --noEmit
  set -- 'test/unit/**/*.test.ts' 'test/integration/**/*.test.ts' 'bpf/libbpf-ts/test/**/*.test.ts' 'test/netns/**/*.test.ts' 'test/fuzz/**/*.test.ts'
fi

echo "== tests"
tap=$(mktemp)
trap 'rm -f "$tap"' EXIT
# Two files at a time: labs are isolated from each other. The limit is for a file as a whole.
node --disable-warning=ExperimentalWarning --test --test-concurrency=2 --test-timeout=300000 \
  --test-reporter=spec --test-reporter-destination=stdout --test-reporter=tap --test-reporter-destination="$tap" \
  "$@" </dev/null || failed="$failed, tests"
grep -q '^# skipped 0$' "$tap" && grep -q '^# todo 0$' "$tap" || failed="$failed, a test was skipped"

[ -z "$failed" ] && exit 0
echo "test.sh: failed:${failed#,}" >&2
exit 1
