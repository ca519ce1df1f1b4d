# Sourced by scripts that work with a lab: its names, folders and addresses, and its two namespaces.
# shellcheck shell=bash

lab=${RINGFENCE_LAB:-ringfence}
[[ $lab =~ ^[a-z][a-z0-9-]{0,19}$ ]] || die "'$lab' is not a name for a lab." 'RINGFENCE_LAB takes up to 20 of [a-z0-9-], a letter first'

lab_home=$lab_cache/$lab          # keeps the engine's images from one `up` to the next
lab_run=/run/ringfence-lab/$lab   # sockets and process ids; gone after `down`
lab_world=$lab_home/world         # keys and configuration of the internet; new with each `up`
lab_certificates=$lab_home/certificates # kept, so that images that trust the lab's authority stay valid
lab_log=$lab_home/log
lab_scratch=$lab_home/scratch     # for the state of daemons under test, on a real disk
lab_data=$lab_home/engine
lab_socket=$lab_run/docker.sock
host_ns=$lab-host
net_ns=$lab-net

# Documentation ranges only, and one made-up internal service range. Every address of them answers in the lab.
host_address=192.0.2.2
world_address=192.0.2.1
host_address6=2001:db8:1::2
world_address6=2001:db8:1::1
resolver=198.51.100.53
other_resolver=203.0.113.53
ssh_host=203.0.113.10
ssh_port=10022
internal_address=10.99.0.5
world_ranges=(192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 10.99.0.0/24 169.254.169.254/32)
world_ranges6=(2001:db8:ff00::/40)
lab_cgroup=/ringfence-lab/$lab

in_host() { nsenter "--net=/run/netns/$host_ns" "$@"; }
in_world() { nsenter "--net=/run/netns/$net_ns" "$@"; }

namespace_inode() { stat -Lc %i "/run/netns/$1" 2>/dev/null; }

# The process of a pid file, only while it lives in one of our namespaces: a number that was given to another process
# since is never signalled.
lab_pid() {
  local file=$lab_run/$1.pid pid inode
  [[ -s $file ]] || return 1
  pid=$(<"$file")
  inode=$(readlink "/proc/$pid/ns/net" 2>/dev/null) || return 1
  inode=${inode//[!0-9]/}
  [[ $inode == "$(namespace_inode "$host_ns")" || $inode == "$(namespace_inode "$net_ns")" ]] || return 1
  echo "$pid"
}

# start NAME COMMAND…: in the background, in a session of its own, its output in the lab's log folder.
start() {
  local name=$1
  shift
  setsid "$@" >"$lab_log/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$lab_run/$name.pid"
  disown
}

# wait_until SECONDS COMMAND…: false when it did not succeed in time.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# wait_for PART SECONDS COMMAND…: as wait_until, but gives up at once when the part has ended.
wait_for() {
  local pid deadline=$((SECONDS + $2))
  pid=$(<"$lab_run/$1.pid")
  shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

engine_answers() { docker --host "unix://$lab_socket" version; }

lab_environment() {
  printf '%s\n' \
    "DOCKER_HOST=unix://$lab_socket" \
    "RINGFENCE_LAB=$lab" \
    "RINGFENCE_LAB_FILE=$lab_run/lab.json" \
    "RINGFENCE_LAB_OBSERVED=$lab_log/observed.ndjson" \
    "RINGFENCE_LAB_PACKETS=$lab_log/packets.pcap" \
    "RINGFENCE_LAB_DNS_LOG=$lab_log/dnsmasq.log" \
    "RINGFENCE_LAB_CA=$lab_certificates/ca.crt" \
    "RINGFENCE_LAB_SSH_KEY=$lab_world/ssh/client" \
    "RINGFENCE_LAB_SCRATCH=$lab_scratch" \
    "RINGFENCE_LAB_RESOLVER=$resolver"
}

write_lab_file() {
  cat >"$lab_run/lab.json" <<JSON
{
  "name": "$lab",
  "checkout": "$root",
  "hostNamespace": "/run/netns/$host_ns",
  "internetNamespace": "/run/netns/$net_ns",
  "runtime": "$lab_run",
  "dockerSocket": "$lab_socket",
  "observed": "$lab_log/observed.ndjson",
  "packets": "$lab_log/packets.pcap",
  "dnsLog": "$lab_log/dnsmasq.log",
  "hosts": "$lab_world/hosts",
  "dnsmasqPidFile": "$lab_run/dnsmasq.pid",
  "enginePidFile": "$lab_run/engine.pid",
  "ca": "$lab_certificates/ca.crt",
  "sshKey": "$lab_world/ssh/client",
  "scratch": "$lab_scratch",
  "resolver": "$resolver",
  "otherResolver": "$other_resolver",
  "internetMac": "$(ip -n "$net_ns" -o link show downlink | sed -n 's/.*link\/ether \([^ ]*\).*/\1/p')",
  "hostAddress": "$host_address",
  "barrierAddress": "$world_address",
  "sshHost": "$ssh_host",
  "internalAddress": "$internal_address",
  "cgroup": "$lab_cgroup"
}
JSON
}
