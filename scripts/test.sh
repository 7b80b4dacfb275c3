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
node --disable-warning=ExperimentalWarning test/kit/run-tests.ts "$@" </dev/null || failed="$failed, tests"

[ -z "$failed" ] && exit 0
echo "test.sh: failed:${failed#,}" >&2
exit 1
