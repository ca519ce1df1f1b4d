# Sourced by guest: the daemon dies, hangs, is upgraded, stopped, and the machine restarts.
# shellcheck shell=bash

restarted() { [[ $(main_pid) != "$1" && $(main_pid) != 0 ]] && systemctl --quiet is-active ringfenced.service; }

check_watchdog() {
  local before kept warden init
  launch plain sleep 36000
  kept=$run
  init=$(init_of "$kept")
  before=$(main_pid)
  kill -KILL "$before"
  check 'a daemon that was killed is started again' until_true restarted "$before"
  check 'its run was taken over' until_true alive "$kept"
  before=$(main_pid)
  kill -STOP "$before"
  note "stopped the daemon $before"
  check 'the watchdog restarts a daemon whose loop stands still' until_true restarted "$before"
  like 'by the watchdog' 'atchdog timeout' "$(journalctl -u ringfenced --no-pager -o cat)"
  check 'its run goes on' until_true alive "$kept"
  same 'the agent never noticed' "$init" "$(init_of "$kept")"
  before=$(main_pid)
  for warden in $(warden_pids); do kill -STOP "$warden"; done
  note "stopped the wardens $(warden_pids | tr '\n' ' ')"
  check 'the watchdog restarts a daemon whose kill loop stands still' until_true restarted "$before"
  same 'no run outlives a warden that stands still' enforcement.lost "$(reason "$kept")"
  check 'the next warden hears of refused packets' until_true eval "ringfence doctor | grep -q '^ok  *denied packets'"
  check 'the warden that stood still is gone' until_true eval '[[ $(warden_pids | wc -l) == 1 ]]'
  agent strict sh -c 'curl -sSm 10 http://203.0.113.9/; sleep 30'
  like 'a forbidden packet is still the end' '^124 .*egress.forbidden' "$code ${output//$'\n'/ }"
  launch plain sleep 36000
  ringfence kill "$run" >/dev/null
  same 'and a new run can be killed' killed "$(reason "$run")"
  unlike 'no process of it fell over' $'\n +at .*/dist/' "$(journalctl -u ringfenced --no-pager -o cat)"
}

check_upgrade() {
  local before init
  launch plain sleep 36000
  init=$(init_of "$run")
  before=$(main_pid)
  check 'scripts/install upgrades in place' "$release/scripts/install"
  check 'another daemon answers' eval "until_true restarted $before && until_true answers"
  check 'the run goes on' until_true alive "$run"
  same 'in the same process' "$init" "$(init_of "$run")"
  unlike 'the orderly way' 'Failed with result' "$(journalctl -u ringfenced --no-pager -o cat | tail -n 12)"
  same 'one version is left' '/opt/ringfence /opt/ringfence-'"$(<"$release/RELEASE")" "$(echo /opt/ringfence*)"
}

check_stop() {
  local ended=$run
  systemctl stop ringfenced.service
  same 'an orderly stop ends the runs' '' "$(docker ps -q --filter label=ringfence.run)"
  same 'and leaves no process' '' "$(warden_pids)"
  sed -i 's/^onStop: end/onStop: keep/' /etc/ringfence/config.yaml
  systemctl start ringfenced.service
  until_true answers
  same 'the run that was ended is remembered so' stopped "$(reason "$ended")"
  launch plain sleep 36000
  systemctl stop ringfenced.service
  check 'with onStop: keep they go on' docker inspect "$(container_of "$run")"
  systemctl start ringfenced.service
  check 'and are taken over' until_true alive "$run"
  ringfence kill "$run" >/dev/null
}

# `supervisor.lost: kill`, with the daemon dead and nobody to start it again.
check_dead_man() {
  local orphan kept
  launch orphan sleep 36000
  orphan=$run
  launch plain sleep 36000
  kept=$run
  mkdir -p /run/systemd/system/ringfenced.service.d
  printf '[Service]\nRestart=no\n' >/run/systemd/system/ringfenced.service.d/dead.conf
  systemctl daemon-reload
  kill -KILL "$(main_pid)"
  check 'supervisor.lost: kill is honoured without a daemon' until_true eval "[[ -z \$(container_of $orphan) ]]"
  check 'other runs go on' test -n "$(container_of "$kept")"
  rm -r /run/systemd/system/ringfenced.service.d/dead.conf
  systemctl daemon-reload
  systemctl start ringfenced.service
  until_true answers
  same 'the next daemon knows why it ended' supervisor.lost "$(reason "$orphan")"
  check 'and has taken over the other one' until_true alive "$kept"
  ringfence kill "$kept" >/dev/null
}

check_reload_and_credentials() {
  local journal
  mkdir -p /etc/ringfence/credentials
  systemd-creds setup >/dev/null 2>&1
  printf 'whsec_%s' "$(head -c 24 /dev/urandom | base64)" |
    systemd-creds encrypt --name=ops-webhook - /etc/ringfence/credentials/ops-webhook
  mkdir -p /etc/systemd/system/ringfenced.service.d
  printf '[Service]\nLoadCredentialEncrypted=ops-webhook:/etc/ringfence/credentials/ops-webhook\n' \
    >/etc/systemd/system/ringfenced.service.d/credentials.conf
  cat >>/etc/ringfence/config.yaml <<'YAML'
sinks:
  ops: { type: webhook, url: "https://hooks.example.test/x", secretFiles: [/run/credentials/ringfenced.service/ops-webhook] }
  journal: { type: journald }
YAML
  systemctl reload ringfenced.service
  sleep 5
  journal=$(journalctl -u ringfenced --no-pager -o cat | tail -n 5)
  like 'a reload says what is wrong, and the daemon goes on' 'configuration is not valid' "$journal"
  systemctl daemon-reload
  systemctl restart ringfenced.service
  check 'the daemon starts with an encrypted credential' until_true answers
  systemctl reload ringfenced.service
  sleep 5
  like 'a reload says that nothing differs' 'configuration is valid and in force' "$(journalctl -u ringfenced --no-pager -o cat | tail -n 3)"
  same 'nobody but root may read the credential' '0' \
    "$(runuser -u ringfence -- cat /run/credentials/ringfenced.service/ops-webhook 2>/dev/null | wc -c)"
  timeout 120 ringfence alerts test journal >/dev/null 2>&1
  check 'alerts are in the journal with their fields' until_true eval \
    'journalctl --no-pager -o json RINGFENCE_TYPE=test | grep -q RINGFENCE_ALERT_ID'
}

leave_agents() {
  image_up
  launch plain sleep 36000
  echo "$run" >"$state/left"
  launch orphan sleep 36000
  echo "$run" >>"$state/left"
  note "left behind: $(tr '\n' ' ' <"$state/left")"
  sync
}

# check_after_boot REASON: how runs end that an orderly reboot, or a power cut, has ended.
check_after_boot() {
  local left
  check 'the service is up after the boot' until_true answers
  for left in $(<"$state/left"); do
    like "$left, which the boot ended, has an outcome" "$1" "$(reason "$left")"
    note "$left: $(ringfence why "$left" 2>&1 | head -n 1)"
  done
  same 'no run is alive' '[]' "$(ringfence ps --json | tr -d ' \n')"
  same 'no container, network or slice is left' '' \
    "$(docker ps -aq --filter label=ringfence.run; docker network ls -q --filter label=ringfence.run; ls -d /sys/fs/cgroup/ringfence.slice/ringfence-*.slice 2>/dev/null)"
  like 'nothing is left to collect' '"removed":\[\]' "$(ringfence gc --json | tr -d ' \n')"
  agent reader curl -sSm 20 http://docs.example.test/
  same 'agents run and reach what they may' '0 a page' "$code ${output%%$'\n'*}"
}
