# Sourced by scripts/lab: takes away what `up` and everything run in the lab has left. Each part works on whatever it
# finds, so that a half-made or half-removed lab comes down too.
# shellcheck shell=bash

ENGINE_STOP_SECONDS_MAX=20
PROCESS_STOP_SECONDS_MAX=5

# The cgroups of containers are noted first: once the engine is gone nothing says any more whose they were.
remove_containers() {
  local -a containers
  lab_pid engine >/dev/null && wait_until 5 engine_answers || return 0
  mapfile -t containers < <(docker --host "unix://$lab_socket" ps --all --quiet --no-trunc)
  ((${#containers[@]} > 0)) || return 0
  docker --host "unix://$lab_socket" inspect --format '{{.HostConfig.CgroupParent}}' "${containers[@]}" >>"$lab_run/cgroups" || true
  docker --host "unix://$lab_socket" rm --force --volumes "${containers[@]}" || true
}

remove_networks() {
  lab_pid engine >/dev/null && wait_until 5 engine_answers || return 0
  docker --host "unix://$lab_socket" network prune --force || true
  docker --host "unix://$lab_socket" volume prune --force || true
}

stop_process() {
  local name=$1 seconds=$2 pid
  pid=$(lab_pid "$name") || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  wait_until "$seconds" process_is_gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
}

process_is_gone() { [[ ! -e /proc/$1 || $(awk '{ print $3 }' "/proc/$1/stat" 2>/dev/null) == Z ]]; }

# Whoever still lives in the lab: daemons under test, shims, forgotten servers.
namespace_pids() {
  local namespace
  for namespace in "$host_ns" "$net_ns"; do
    [[ ! -e /run/netns/$namespace ]] || ip netns pids "$namespace"
  done
}

no_process_left() { [[ -z $(namespace_pids) ]]; }

end_processes() {
  local signal pid
  for signal in TERM KILL; do
    no_process_left && return 0
    for pid in $(namespace_pids); do kill "-$signal" "$pid" 2>/dev/null || true; done
    wait_until "$PROCESS_STOP_SECONDS_MAX" no_process_left || true
  done
  no_process_left
}

# Containers whose shim is gone have namespaces of their own, so they are found by their cgroup.
end_cgroups() {
  local folder pid parent
  for parent in $(lab_cgroups); do
    while IFS= read -r folder; do
      while IFS= read -r pid; do kill -KILL "$pid" 2>/dev/null || true; done 2>/dev/null <"$folder/cgroup.procs" || true
    done < <(cgroup_folders "$parent")
    wait_until "$PROCESS_STOP_SECONDS_MAX" remove_cgroup "$parent" || true
  done
  rmdir /sys/fs/cgroup/*/ringfence-lab /sys/fs/cgroup/ringfence-lab 2>/dev/null || true
  other_labs_are_up || rmdir /sys/fs/cgroup/*/ringfence /sys/fs/cgroup/ringfence 2>/dev/null || true
}

lab_cgroups() {
  echo "$lab_cgroup"
  [[ ! -f $lab_run/cgroups ]] || grep -E '^/ringfence/[a-z0-9]+$' "$lab_run/cgroups" | sort -u || true
  # A run's group is made before its container and stays after it. Nobody else's can be meant when no other lab is up.
  other_labs_are_up || [[ -S /run/ringfence/ringfenced.sock ]] || empty_run_cgroups
}

empty_run_cgroups() {
  local folder
  for folder in /sys/fs/cgroup/*/ringfence/* /sys/fs/cgroup/ringfence/*; do
    [[ ! -d $folder ]] || echo "/ringfence/${folder##*/}"
  done | sort -u
}

other_labs_are_up() {
  local socket
  for socket in /run/ringfence-lab/*/docker.sock; do
    [[ $socket == "$lab_socket" || ! -S $socket ]] || return 0
  done
  return 1
}

cgroup_folders() {
  local hierarchy
  for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [[ ! -d $hierarchy$1 ]] || find "$hierarchy$1" -depth -type d
  done
}

remove_cgroup() {
  local folder status=0
  while IFS= read -r folder; do rmdir "$folder" || status=1; done < <(cgroup_folders "$1")
  return "$status"
}

# Newest first, so that what is mounted inside another mount goes before it.
unmount_everything() {
  local point
  while IFS= read -r point; do umount --lazy "$point" || true; done < <(
    awk -v a="$lab_run/" -v b="$lab_home/" 'index($5, a) == 1 || index($5, b) == 1 { print $5 }' /proc/self/mountinfo | tac
  )
}

remove_network() {
  local namespace
  for namespace in "$host_ns" "$net_ns"; do
    [[ ! -e /run/netns/$namespace ]] || ip netns del "$namespace"
  done
}

# Folders of the machine that were not there before `up`. The last lab takes them away, when nobody put a file there.
remove_shared_folders() {
  local folder other
  [[ -f $lab_run/made-folders ]] || return 0
  for other in /run/ringfence-lab/*/; do
    [[ ${other%/} != "$lab_run" && -f ${other}made-folders ]] || continue
    cat "$lab_run/made-folders" >>"${other}made-folders"
    return 0
  done
  for folder in "${SHARED_FOLDERS[@]}"; do
    grep -qxF "$folder" "$lab_run/made-folders" || continue
    [[ -d $folder && -z $(find "$folder" ! -type d -print -quit) ]] || continue
    if [[ $folder == /run/netns ]]; then umount "$folder" || true; fi
    find "$folder" -depth -type d -empty -delete
  done
}

remove_files() {
  rm -rf --one-file-system "$lab_run" "$lab_world" "$lab_log" "$lab_scratch"
  rmdir /run/ringfence-lab 2>/dev/null || true
}
