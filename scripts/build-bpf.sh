#!/bin/sh
# Compiles bpf/*.bpf.c to BPF objects. The objects are checked in, so that a node needs no compiler; they are the same bytes on every
# machine, and test/unit/bpf-objects.test.ts holds them to it.
#
#   build-bpf.sh            into bpf/objects
#   build-bpf.sh DIR        into DIR
#   build-bpf.sh --check    compares with bpf/objects and changes nothing
set -eu
cd "$(dirname "$0")/../bpf"

CLANG=${CLANG:-clang-19}
STRIP=${LLVM_STRIP:-llvm-strip-19}

fail() {
  echo "build-bpf: $*" >&2
  exit 1
}

for tool in "$CLANG" "$STRIP"; do
  command -v "$tool" >/dev/null || fail "$tool is missing: npm run setup test (Debian packages clang-19 and llvm-19)"
done
[ -f /usr/include/bpf/bpf_helpers.h ] || fail "bpf/bpf_helpers.h is missing: npm run setup test (Debian package libbpf-dev)"

check=false
output=objects
case ${1-} in
--check) check=true ;;
-*) fail "unknown option $1; use --check, or the name of a directory" ;;
?*) output=$1 ;;
esac
case $output in
/*) ;;
objects) ;;
*) output=$OLDPWD/$output ;;
esac
if $check; then
  output=$(mktemp -d)
  trap 'rm -rf "$output"' EXIT
fi
mkdir -p "$output"

# asm/types.h is in the directory of the machine's architecture. Its types are the same on all that Weft runs on.
machine_headers=/usr/include/$(uname -m)-linux-gnu

for source in *.bpf.c; do
  object=$output/${source%.c}.o
  # Line information names files: relative to this directory, never by where the checkout is. -mcpu=v3 needs Linux 5.1.
  "$CLANG" -target bpf -mcpu=v3 -O2 -g -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter -D__TARGET_ARCH_x86 \
    -fdebug-compilation-dir=. "-ffile-prefix-map=$PWD=." -idirafter "$machine_headers" -I. -c "$source" -o "$object"
  # Drops DWARF and keeps BTF, which is what the kernel and CO-RE read.
  "$STRIP" -g "$object"
done

if $check; then
  for object in "$output"/*.o objects/*.o; do
    name=$(basename "$object")
    cmp -s "$output/$name" "objects/$name" || fail "bpf/objects/$name is not what bpf/${name%.o}.c compiles to: npm run build:bpf"
  done
fi
