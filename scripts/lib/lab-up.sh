# Sourced by scripts/lab: what `up` makes, in order. Each piece is checked before the next one is made.
# shellcheck shell=bash

ENGINE_READY_SECONDS_MAX=60
WORLD_READY_SECONDS_MAX=30

# Made by the tools below when they are first used, and left there by them. umount itself makes the last one.
SHARED_FOLDERS=(/run/netns /run/docker /run/containerd /run/mount)

make_folders() {
  local folder
  local -a missing=()
  for folder in "${SHARED_FOLDERS[@]}"; do [[ -d $folder ]] || missing+=("$folder"); done
  mkdir -p "$lab_run/exec" "$lab_world" "$lab_log" "$lab_scratch" "$lab_data"
  rm -f "$lab_log"/*
  chmod 0711 "$lab_run"
  printf '%s\n' "${missing[@]}" >"$lab_run/made-folders"
}

make_network() {
  local range
  ip netns add "$host_ns"
  ip netns add "$net_ns"
  ip -n "$host_ns" link set lo up
  ip -n "$net_ns" link set lo up
  ip link add uplink netns "$host_ns" type veth peer name downlink netns "$net_ns"

  in_host sysctl -qw net.ipv4.ip_forward=1
  ip -n "$host_ns" address add "$host_address/30" dev uplink
  ip -n "$host_ns" link set uplink up
  ip -n "$net_ns" address add "$world_address/30" dev downlink
  ip -n "$net_ns" link set downlink up
  ip -n "$host_ns" route add default via "$world_address"
  # Packets that leave the host without translation are answered too: a hole in the fence must show.
  ip -n "$net_ns" route add default via "$host_address"
  in_world sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.downlink.rp_filter=0
  for range in "${world_ranges[@]}"; do ip -n "$net_ns" route add local "$range" dev lo; done
  # The /24 above would swallow the link's own addresses.
  ip -n "$net_ns" route add "$host_address/32" dev downlink table local
  make_network6
}

make_network6() {
  local range
  [[ -d /proc/sys/net/ipv6 ]] || return 0
  in_host sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.all.forwarding=1
  in_world sysctl -qw net.ipv6.conf.all.disable_ipv6=0
  ip -n "$host_ns" address add "$host_address6/64" dev uplink nodad
  ip -n "$net_ns" address add "$world_address6/64" dev downlink nodad
  ip -n "$host_ns" -6 route add default via "$world_address6"
  ip -n "$net_ns" -6 route add default via "$host_address6"
  for range in "${world_ranges6[@]}"; do ip -n "$net_ns" -6 route add local "$range" dev lo; done
}

CERTIFICATE_DAYS=30
CERTIFICATE_LEFT_SECONDS_MIN=86400

make_certificates() {
  local folder=$lab_certificates name names
  names=$(site_names)
  if [[ -f $folder/names && $(<"$folder/names") == "$names" ]] &&
    openssl x509 -in "$folder/ca.crt" -noout -checkend "$CERTIFICATE_LEFT_SECONDS_MIN"; then
    return 0
  fi
  rm -rf "$folder"
  mkdir -p "$folder"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days "$CERTIFICATE_DAYS" \
    -subj '/CN=Ringfence lab CA' -keyout "$folder/ca.key" -out "$folder/ca.crt"
  for name in $names; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days "$CERTIFICATE_DAYS" -subj "/CN=$name" \
      -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -addext basicConstraints=critical,CA:FALSE \
      -addext "subjectAltName=DNS:${name/#any./*.}" -keyout "$folder/$name.key" -out "$folder/$name.crt"
  done
  printf '%s\n' "$names" >"$folder/names"
}

# Every name of the hosts file, the aliases, and one certificate for each wildcard zone.
site_names() {
  awk '$1 !~ /^#/ && NF == 2 { print $2 }' "$root/test/fixtures/world/hosts" | sort -u
  printf '%s\n' alias.example.test chain.example.test sly.example.test any.pkg.example.test any.exfil.example.test
}

make_ssh_keys() {
  local folder=$lab_world/ssh
  rm -rf "$folder"
  mkdir -p "$folder"
  ssh-keygen -q -t ed25519 -N '' -C lab-server -f "$folder/server"
  ssh-keygen -q -t ed25519 -N '' -C lab-client -f "$folder/client"
  cp "$folder/client.pub" "$folder/authorized"
  # The server sees these users in place of the machine's. The operator of the far end asks for no password: an
  # attacker's own server lets its own agent in.
  printf '%s\n' 'root:*:0:0:root:/:/bin/sh' 'sshd:*:65533:65534::/nonexistent:/usr/sbin/nologin' \
    'operator::65532:65534::/:/bin/sh' >"$folder/passwd"
  {
    printf '%s\n' "Port $ssh_port" 'ListenAddress 127.0.0.1' "HostKey $folder/server" "AuthorizedKeysFile $folder/authorized" \
      'StrictModes no' 'UsePAM no' 'PermitEmptyPasswords yes' 'AllowUsers operator' 'AllowTcpForwarding yes' \
      'GatewayPorts clientspecified' 'PidFile none' 'LogLevel VERBOSE' 'MaxStartups 200'
    ssh_helper_paths
  } >"$folder/config"
}

# Newer servers start helpers by absolute path, which lies elsewhere when the package was only unpacked.
ssh_helper_paths() {
  local folder=$lab_cache/root/usr/lib/openssh
  [[ -x $folder/sshd-session && ! -x /usr/lib/openssh/sshd-session ]] || return 0
  echo "SshdSessionPath $folder/sshd-session"
  [[ ! -x $folder/sshd-auth ]] || echo "SshdAuthPath $folder/sshd-auth"
}

write_world_options() {
  local names
  names=$(site_names | sed 's/.*/"&"/' | paste -sd,)
  cat >"$lab_world/internet.json" <<JSON
{
  "observed": "$lab_log/observed.ndjson",
  "ready": "$lab_run/world.ready",
  "certificates": "$lab_certificates",
  "names": [$names],
  "resolver": "$resolver",
  "sshHost": "$ssh_host",
  "sshPort": $ssh_port,
  "barrier": "$world_address"
}
JSON
  : >"$lab_log/observed.ndjson"
  cp "$root/test/fixtures/world/hosts" "$lab_world/hosts"
}

start_world() {
  # shellcheck disable=SC2016 # the inner shell expands these
  start sshd nsenter "--net=/run/netns/$net_ns" unshare --mount --propagation private sh -c \
    'mount --bind "$1/passwd" /etc/passwd && mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd &&
     exec "$2" -D -e -f "$1/config"' sshd "$lab_world/ssh" "$(command -v sshd)"
  start dnsmasq nsenter "--net=/run/netns/$net_ns" dnsmasq --keep-in-foreground --pid-file= \
    --conf-file="$root/test/fixtures/world/dnsmasq.conf" --addn-hosts="$lab_world/hosts" \
    --listen-address="$resolver,$other_resolver" --log-facility=-
  # 600 bytes hold the headers and any whole DNS query; -U writes each packet as it comes.
  start capture nsenter "--net=/run/netns/$net_ns" tcpdump -i downlink -p -n -U --immediate-mode -s 600 -B 16384 -Z root \
    -w "$lab_log/packets.pcap"
  start world nsenter "--net=/run/netns/$net_ns" node "$root/test/fixtures/world/internet.ts" "$lab_world/internet.json"
  wait_for world "$WORLD_READY_SECONDS_MAX" test -e "$lab_run/world.ready" -a -s "$lab_log/packets.pcap" || {
    tail -n 5 "$lab_log"/{world,sshd,dnsmasq,capture}.log
    return 1
  }
}

start_engine() {
  local -a prefix=()
  if [[ -n $1 ]]; then start_mounts; fi
  mapfile -d '' -t prefix < <(engine_prefix "$1")
  # cgroupfs also where systemd manages the host: the lab's groups stay apart from the machine's.
  # 198.18.0.0/15 is set aside for tests of network devices, so it collides with nobody's network.
  start engine nsenter "--net=/run/netns/$host_ns" "${prefix[@]}" dockerd --host "unix://$lab_socket" --group root \
    --data-root "$lab_data" --exec-root "$lab_run/exec" --pidfile "$lab_run/dockerd.pid" \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "$lab_cgroup" \
    --bip 198.18.0.1/24 --default-address-pool base=198.19.0.0/16,size=24 \
    --userland-proxy=false --iptables=true --log-level warn
  wait_for engine "$ENGINE_READY_SECONDS_MAX" engine_answers || {
    tail -n 15 "$lab_log/engine.log"
    return 1
  }
}
