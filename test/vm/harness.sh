# Sourced by guest: results as lines that the host reads (TAP), and waiting for facts.
# shellcheck shell=bash

count=0
# Of the machine's own time, which stands still while it does nothing.
PATIENCE_SECONDS=${PATIENCE_SECONDS:-150}

pass() {
  count=$((count + 1))
  printf 'ok %d - %s [%d s]\n' "$count" "$1" "$SECONDS"
}

flunk() {
  count=$((count + 1))
  printf 'not ok %d - %s [%d s]\n' "$count" "$1" "$SECONDS"
  printf '%s\n' "${2:-}" | head -n 40 | sed 's/^/# /'
}

# check TITLE COMMAND…: the command says by its exit code whether the title is true; its output is shown when it is not.
check() {
  local title=$1 output
  shift
  if output=$("$@" 2>&1); then pass "$title"; else flunk "$title" "exit $?: $* :: $output"; fi
}

# same TITLE WANTED GOT
same() { if [[ $2 == "$3" ]]; then pass "$1"; else flunk "$1" "wanted: $2"$'\n'"got:    $3"; fi; }

# like TITLE PATTERN TEXT: an extended regular expression.
like() { if [[ $3 =~ $2 ]]; then pass "$1"; else flunk "$1" "wanted: $2"$'\n'"got:    $3"; fi; }

# unlike TITLE PATTERN TEXT
unlike() { if [[ $3 =~ $2 ]]; then flunk "$1" "unwanted: $2"$'\n'"got:      $3"; else pass "$1"; fi; }

# until_true COMMAND…: waits for a fact.
until_true() {
  local end=$((SECONDS + PATIENCE_SECONDS))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 1
  done
}

note() { printf '# %s\n' "$*"; }

# field JSON KEY: the first value of a key in JSON as the product prints it, one key a line.
field() { sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" <<<"$1" | head -n 1; }

# agent PROFILE COMMAND…: runs it to its end; sets `code`, `output`, and `outcome` as JSON.
agent() {
  local name=$1
  shift
  code=0
  output=$(timeout 300 ringfence run "$agents/$name.yaml" -- "$@" 2>/run/agent.err) || code=$?
  output=$output$'\n'$(</run/agent.err)
}

# launch PROFILE COMMAND…: sets `run`.
launch() {
  local name=$1
  shift
  run=$(timeout 300 ringfence run -d "$agents/$name.yaml" -- "$@" 2>&1) || flunk "launch of $name" "$run"
  # The id is told as soon as the run is recorded.
  until_true alive "$run" || note "$run does not run: $(ringfence why "$run" 2>&1)"
}

# Whatever is asked again and again is asked of the socket: here a start of Node.js costs seconds.
api() { curl -sf --max-time 300 --unix-socket /run/ringfence/ringfenced.sock "http://ringfence/v1/$1" "${@:2}"; }

# reason RUN: why it ended.
reason() { api "runs/$1/wait" -X POST | grep -o '"reason":"[a-z.]*"' | head -n 1 | cut -d'"' -f4; }

alive() { api "runs/$1" | grep -q '"phase":"running"'; }
main_pid() { systemctl show -P MainPID ringfenced.service; }
warden_pids() { pgrep -f '^/opt/ringfence[^ ]*/bin/node ([^ ]* )?[^ ]*/warden/process.js'; }
answers() { api health; }
container_of() { docker ps -q --no-trunc --filter "label=ringfence.run=$1"; }
init_of() { docker inspect --format '{{.State.Pid}}' "$(container_of "$1")"; }
slice_of() { echo "/sys/fs/cgroup/ringfence.slice/ringfence-$1.slice"; }
