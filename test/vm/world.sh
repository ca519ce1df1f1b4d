# Sourced by guest: the machine's pretended internet, the image of the agents and their profiles.
# shellcheck shell=bash

SITE=198.51.100.80      # docs.example.test, and other.example.test on the same address
RESOLVER=198.51.100.53
FOREIGN=203.0.113.9     # nobody may reach it
agents=/srv/agents

# Another namespace with documentation addresses; the machine's default route leads there.
world_up() {
  ip netns list | grep -q '^wan' && return 0
  ip netns add wan
  ip link add wan0 type veth peer name host0 netns wan
  ip addr add 192.0.2.1/24 dev wan0
  ip link set wan0 up
  ip -n wan link set lo up
  ip -n wan addr add 192.0.2.2/24 dev host0
  for address in "$SITE" "$RESOLVER" "$FOREIGN"; do ip -n wan addr add "$address/32" dev lo; done
  ip -n wan link set host0 up
  ip route add default via 192.0.2.2
  mkdir -p /srv/www /run/world
  echo 'a page' >/srv/www/index.html
  [[ -f /srv/site.pem ]] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=docs.example.test \
    -keyout /srv/site.key -out /srv/site.pem 2>/dev/null
  in_world dnsmasq --keep-in-foreground --no-resolv --no-hosts --bind-interfaces --listen-address="$RESOLVER" \
    --address="/docs.example.test/$SITE" --address="/other.example.test/$SITE" --address="/foreign.example.test/$FOREIGN"
  in_world busybox httpd -f -p "$SITE:80" -h /srv/www
  in_world busybox httpd -f -p "$FOREIGN:80" -h /srv/www
  in_world openssl s_server -accept "$SITE:443" -cert /srv/site.pem -key /srv/site.key -www -quiet
}

in_world() { ip netns exec wan setsid "$@" >>/run/world/log 2>&1 </dev/null & }

# busybox, curl, and openssl for TLS with a chosen name.
image_up() {
  local root file
  docker image inspect ringfence/vm-agent:local >/dev/null 2>&1 && return 0
  root=$(mktemp -d)
  mkdir -p "$root/bin" "$root/tmp" "$root/etc" "$root/usr/bin" "$root/usr/lib/ssl"
  cp /bin/busybox "$root/bin/busybox"
  for file in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$root/bin/$file"; done
  cp /usr/bin/openssl /usr/bin/curl "$root/usr/bin/"
  for file in $(ldd /usr/bin/openssl /usr/bin/curl | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
  tar -C "$root" -c . | docker import - ringfence/vm-agent:local >/dev/null
  rm -rf "$root"
}

# profile NAME [LINES…]: an agent like all of them, with what differs in further lines.
profile() {
  local name=$1 line
  shift
  mkdir -p "$agents"
  {
    printf 'apiVersion: ringfence/v1\nname: %s\nimage: ringfence/vm-agent:local\ncommand: any\nuser: 10001\n' "$name"
    for line in "$@"; do printf '%s\n' "$line"; done
    case " $* " in *limits:*) ;; *) echo 'limits: { cpu: 1, memory: 64MiB, pids: 32, disk: 8MiB }' ;; esac
    case " $* " in *budget:*) ;; *) echo 'budget: { wall: 1h }' ;; esac
    case " $* " in *egress:*) ;; *) echo 'egress: {}' ;; esac
  } >"$agents/$name.yaml"
}

profiles_up() {
  profile plain
  profile hog 'limits: { cpu: 1, memory: 32MiB, pids: 32, disk: 8MiB }'
  profile forks 'limits: { cpu: 1, memory: 64MiB, pids: 12, disk: 8MiB }'
  profile burner 'budget: { wall: 1h, cpu: 4s }'
  profile clock 'budget: { wall: 10s }'
  profile reader 'budget: { wall: 1h, denials: 50/1m }' 'egress: { allow: ["docs.example.test:80,443"] }'
  profile strict 'budget: { wall: 1h, denials: 0 }' 'egress: { allow: ["docs.example.test:80,443"] }'
  profile asker 'budget: { wall: 1h, denials: 50/1m }' 'egress: { ask: ["docs.example.test:80"] }'
  profile slow 'budget: { wall: 1h, cpu: 3s }' 'on: { budget.cpu: throttle }'
  profile pauser 'budget: { wall: 1h, cpu: 3s }' 'on: { budget.cpu: pause }'
  profile orphan 'on: { supervisor.lost: { action: kill, for: 10s } }'
  profile sized "mounts: [{ host: $agents/box, path: /box, mode: rw, size: 16MiB }]"
  mkdir -p "$agents/box"
  chown 10001:10001 "$agents/box"
}
