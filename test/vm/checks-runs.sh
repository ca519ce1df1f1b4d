# Sourced by guest: agents on cgroup v2, under systemd and AppArmor.
# shellcheck shell=bash

check_container() {
  local id pid facts
  agent plain sh -c 'id -u; cat /proc/self/attr/current; exit 7'
  same 'an agent runs confined, and its exit code comes through' '7 10001 docker-default (enforce)' "$code $(echo $output)"
  launch plain sleep 3600
  id=$(container_of "$run")
  pid=$(init_of "$run")
  # What docker-bench-security asks of a container, section 5.
  facts=$(docker inspect "$id" --format 'apparmor={{.AppArmorProfile}} privileged={{.HostConfig.Privileged}} capadd={{.HostConfig.CapAdd}} capdrop={{.HostConfig.CapDrop}} readonly={{.HostConfig.ReadonlyRootfs}} pid={{.HostConfig.PidMode}} ipc={{.HostConfig.IpcMode}} uts={{.HostConfig.UTSMode}} userns={{.HostConfig.UsernsMode}} ports={{.HostConfig.PortBindings}} devices={{.HostConfig.Devices}} restart={{.HostConfig.RestartPolicy.Name}} pids={{.HostConfig.PidsLimit}} memory={{.HostConfig.Memory}} user={{.Config.User}} binds={{len .HostConfig.Binds}} propagation={{range .Mounts}}{{.Propagation}} {{end}}')
  note "$facts"
  like 'bench 5.2: AppArmor profile' 'apparmor=docker-default ' "$facts"
  like 'bench 5.4: capabilities' 'capadd=\[\] capdrop=\[ALL\]' "$facts"
  like 'bench 5.5: not privileged' 'privileged=false' "$facts"
  like 'bench 5.8, 5.14: no port, no restart' 'ports=map\[\] devices=\[\] restart=no? ' "$facts"
  like 'bench 5.11, 5.29: memory and pids' 'pids=32 memory=67108864' "$facts"
  like 'bench 5.13: read-only root' 'readonly=true' "$facts"
  like 'bench 5.16, 5.17, 5.21, 5.31: namespaces' 'pid= ipc=private uts= userns= ' "$facts"
  like 'bench 4.1: not root' 'user=10001' "$facts"
  unlike 'bench 5.32: no socket of the engine' 'docker.sock' "$(cat "/proc/$pid/mountinfo")"
  same 'bench 5.22, 5.26: seccomp and no new privileges, by the kernel' '1 2' \
    "$(awk '/^NoNewPrivs/ { n = $2 } /^Seccomp:/ { s = $2 } END { print n, s }' "/proc/$pid/status")"
  check_cgroup
  ringfence kill "$run" >/dev/null
  same 'kill ends it' killed "$(reason "$run")"
  check 'its slice goes' until_true test ! -e "$(slice_of "$run")"
}

check_cgroup() {
  local slice
  slice=$(slice_of "$run")
  check 'the run has a slice, with one scope below it' test -d "$slice/docker-$(container_of "$run").scope"
  same 'the kernel holds the limits on the scope' '67108864 0 32 100000 100000' \
    "$(cd "$slice"/docker-*.scope && echo $(cat memory.max memory.swap.max pids.max cpu.max))"
  same 'systemd knows the slice' active "$(systemctl is-active "ringfence-$run.slice")"
  systemctl daemon-reload
  # Engines do not tell systemd of the swap, which it therefore sets free on the scope; the slice holds it.
  same 'and a reload of systemd changes no limit' '67108864 0 32 100000 100000' \
    "$(cd "$slice" && echo $(cat docker-*.scope/memory.max memory.swap.max docker-*.scope/pids.max docker-*.scope/cpu.max))"
}

check_limits() {
  agent hog sh -c 'dd if=/dev/zero of=/dev/null bs=64M count=1'
  same 'more memory than limits.memory is an OOM kill, told as such' '124 limits.memory' "$code $(grep -o 'limits.memory' <<<"$output" | head -n 1)"
  agent hog sh -c 'dd if=/dev/zero of=/dev/null bs=8M count=1'
  same 'its twin below the limit goes on' 0 "$code"
  check_forks
  agent burner sh -c 'while :; do :; done'
  like 'budget.cpu ends a busy agent' '^124 .*budget.cpu' "$code ${output//$'\n'/ }"
  agent clock sleep 600
  like 'budget.wall ends a patient one' '^124 .*budget.wall' "$code ${output//$'\n'/ }"
}

check_forks() {
  # shellcheck disable=SC2016 # for the agent
  agent forks sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 5 & done; wait; exit 1'
  like 'a fork beyond limits.pids is told as such' 'limits.pids' "$code $output"
}

check_egress() {
  local request pending
  agent reader sh -c 'curl -sSm 20 http://docs.example.test/
    curl -sSm 10 http://other.example.test/ || echo other refused
    curl -sSm 10 http://198.51.100.80:8080/ || echo port refused
    curl -sSm 10 http://203.0.113.9/ || echo address refused
    echo | openssl s_client -brief -connect docs.example.test:443 -servername docs.example.test 2>&1 | grep -o "CONNECTION ESTABLISHED"
    echo | openssl s_client -brief -connect docs.example.test:443 -servername other.example.test 2>&1 | grep -q "CONNECTION ESTABLISHED" || echo sni refused'
  same 'names, ports, addresses and the name in TLS decide' '0 a page other refused port refused address refused CONNECTION ESTABLISHED sni refused' \
    "$code $(grep -E '^(a page|CONNECTION|[a-z]+ refused)' <<<"$output" | tr '\n' ' ' | sed 's/ $//')"
  agent strict sh -c 'curl -sSm 10 http://203.0.113.9/; sleep 30'
  like 'the first forbidden packet ends a strict agent' '^124 .*egress.forbidden' "$code ${output//$'\n'/ }"
  # shellcheck disable=SC2016 # for the agent
  launch asker sh -c 'for i in $(seq 60); do curl -sSm 10 http://docs.example.test/ && exit 0; sleep 2; done; exit 9'
  until_true eval 'api approvals | grep -q docs.example.test'
  pending=$(ringfence pending --json)
  request=$(field "$pending" id)
  check 'a person approves what an agent asked for' ringfence approve "$request" --for 10m
  same 'and the agent gets it' 0 "$(timeout 300 ringfence wait "$run" >/dev/null 2>&1; echo $?)"
}

# A device that is no pair cannot be taken back from the run: what counts is that the run ends.
check_second_road() {
  local kind
  ip netns exec wan iptables -A INPUT -p tcp --dport 9999
  for kind in macvlan ipvlan; do
    docker network create --driver "$kind" --opt parent=wan0 --subnet 192.0.2.0/24 --ip-range 192.0.2.64/26 --gateway 192.0.2.2 second >/dev/null
    docker run --rm --network second --user 10001 ringfence/vm-agent:local curl -sm 5 http://192.0.2.2:9999/
    check "by a $kind network a plain container gets out" test "$(strays)" -gt 0
    ip netns exec wan iptables -Z INPUT
    launch plain sh -c 'while :; do curl -sm 1 http://192.0.2.2:9999/; done'
    docker network connect second "$(container_of "$run")" || note 'the engine could not attach it'
    same "a run attached to one is ended ($kind)" enforcement.lost "$(reason "$run")"
    note "$(strays) packets of it got out"
    check 'after no more than a few' test "$(strays)" -lt 100
    ip netns exec wan iptables -Z INPUT
    check 'the network can be removed' until_true docker network rm second
  done
}

strays() { ip netns exec wan iptables -nvxL INPUT | awk '/dpt:9999/ { print $1 }'; }

check_throttle_and_pause() {
  local slice
  launch slow sh -c 'while :; do :; done'
  slice=$(slice_of "$run")
  check 'budget.cpu with throttle slows the run down' until_true eval "grep -qvE '^(max|100000) ' $slice/cpu.max $slice/docker-*.scope/cpu.max"
  note "held: $(cat "$slice/cpu.max" "$slice"/docker-*.scope/cpu.max | tr '\n' ' ')"
  systemctl daemon-reload
  sleep 2
  check 'a reload of systemd does not set it free for longer than a second' eval "grep -qvE '^(max|100000) ' $slice/cpu.max $slice/docker-*.scope/cpu.max"
  ringfence kill "$run" >/dev/null
  same 'a throttled run can be killed' killed "$(reason "$run")"
  launch pauser sh -c 'while :; do :; done'
  slice=$(slice_of "$run")
  check 'budget.cpu with pause freezes the run' until_true eval "grep -q 'frozen 1' $slice/cgroup.events"
  systemctl daemon-reload
  check 'a reload of systemd does not thaw it' grep -q 'frozen 1' "$slice/cgroup.events"
  check 'resume thaws it' ringfence resume "$run"
  check 'it is thawed' until_true eval "grep -q 'frozen 0' $slice/cgroup.events"
  check 'and frozen again at the next budget' until_true eval "grep -q 'frozen 1' $slice/cgroup.events"
  ringfence kill "$run" >/dev/null
  same 'a frozen run can be killed' killed "$(reason "$run")"
}

# The unit has no power to mount: systemd does it for the daemon.
check_sized_mount() {
  like 'doctor: mounts with a size are mounted by systemd' 'ok +mounts.size .*mounted by systemd' "$(ringfence doctor)"
  agent sized sh -c 'dd if=/dev/zero of=/box/big bs=1M count=24 2>&1 | grep -o "No space left"; rm /box/big; echo kept >/box/kept'
  like 'a mount with a size holds no more than that' '^0 No space left' "$code $output"
  same 'what the agent wrote is in the folder of the host' kept "$(<"$agents/box/kept")"
  like 'which is a filesystem of that size' '^/dev/loop[0-9]+ ext4 ' "$(findmnt -no SOURCE,FSTYPE,OPTIONS "$agents/box")"
  systemctl stop ringfenced.service
  same 'a daemon that stops unmounts it' '' "$(findmnt -no SOURCE "$agents/box")"
  systemctl start ringfenced.service
  until_true answers
  same 'and the next one mounts it again' kept "$(<"$agents/box/kept")"
}

# The other image store, where the engine of this machine has one: what bounds a disk must not depend on it.
check_image_store() {
  if (($(docker version --format '{{.Server.Version}}' | cut -d. -f1) < 24)); then
    note 'this engine has no containerd image store'
    return
  fi
  mkdir -p /etc/docker
  echo '{ "features": { "containerd-snapshotter": true } }' >/etc/docker/daemon.json
  systemctl restart docker.service
  until_true docker info
  like 'the engine keeps images in containerd' 'io.containerd.snapshotter' "$(docker info --format '{{.DriverStatus}}')"
  image_up
  check 'the daemon has the engine back' until_true eval "ringfence doctor | grep -q '^ok  *image store  *containerd'"
  agent plain sh -c 'dd if=/dev/zero of=/tmp/small bs=1M count=4 2>/dev/null && echo fits; echo x 2>/dev/null >/root.txt || echo closed'
  like 'an agent has its scratch and nothing else to write to' '^0 fits closed' "$code ${output//$'\n'/ }"
  agent plain sh -c 'dd if=/dev/zero of=/tmp/big bs=1M count=64 2>/dev/null; exit 3'
  like 'a full scratch is the reason told' 'limit\.disk' "$code ${output//$'\n'/ }"
}
