# Sourced by guest: the installation, the unit and what the host can hold.
# shellcheck shell=bash

facts() {
  # shellcheck source=/dev/null
  note "$(. /etc/os-release && echo "$PRETTY_NAME"), $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \([^ ]*\).*/\1/p')"
  note "engine $(docker version --format '{{.Server.Version}}'), $(docker info --format 'cgroup v{{.CgroupVersion}} by {{.CgroupDriver}}, {{.SecurityOptions}}' 2>/dev/null)"
  note "$(iptables --version), $(runc --version | head -n 1)"
}

release=/root/release

check_install() {
  mkdir -p "$release"
  tar -C "$release" --strip-components=1 -xzf "$here"/ringfence-*.tar.gz
  check 'scripts/install installs and starts the service' "$release/scripts/install"
  check 'the daemon answers' until_true answers
  same 'the unit is active and enabled' 'active enabled' "$(systemctl is-active ringfenced) $(systemctl is-enabled ringfenced)"
  same 'folders have their modes' '755 0:0 /etc/ringfence
700 0:0 /etc/ringfence/secrets
700 0:0 /var/lib/ringfence
755 0:0 /run/ringfence' "$(stat -c '%a %u:%g %n' /etc/ringfence /etc/ringfence/secrets /var/lib/ringfence /run/ringfence)"
  same 'the socket is for the group' '660 root:ringfence' "$(stat -c '%a %U:%G' /run/ringfence/ringfenced.sock)"
  check 'a member of the group may list' runuser -u ringfence -- ringfence ps
  check 'nobody else may' eval '! runuser -u nobody -- ringfence ps'
  like 'the manual page is found' 'RINGFENCE\(1\)' "$(man -w ringfence; man ringfence 2>/dev/null | head -n 1)"
  # shellcheck disable=SC2016 # for the inner shell
  like 'bash completes commands' '(^| )incidents( |$)' "$(bash -c 'source /usr/local/share/bash-completion/completions/ringfence
    COMP_WORDS=(ringfence inc) COMP_CWORD=1 && _ringfence && echo "${COMPREPLY[@]}"')"
  check 'zsh reads its completion' zsh -n /usr/local/share/zsh/site-functions/_ringfence
}

check_host() {
  local score doctor
  score=$(systemd-analyze security --no-pager ringfenced.service | sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p')
  note "systemd-analyze security: $score"
  check 'systemd-analyze security is at most 3.9' awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 3.9) }'
  doctor=$(ringfence doctor)
  # shellcheck disable=SC2001 # of each line
  sed 's/^/# /' <<<"$doctor"
  like 'doctor: AppArmor' 'ok +apparmor +docker-default' "$doctor"
  like 'doctor: cgroup v2' 'ok +cgroups +cgroup v2' "$doctor"
  like 'doctor: kill by cgroup.kill' 'ok +kill +cgroup.kill' "$doctor"
  like 'doctor: packets that are refused are heard of' 'ok +denied packets' "$doctor"
  like 'doctor: egress rules are in force' 'ok +egress' "$doctor"
  unlike 'doctor: nothing is missing' '(^|'$'\n'')missing' "$doctor"
  same 'the journal has the daemon by its unit' info "$(journalctl -u ringfenced -o cat --no-pager | grep -c 'daemon started' | sed 's/^[1-9].*/info/')"
}

# The line of README.md as it is written, from the checkout that came along.
check_one_liner() {
  local line
  systemctl stop ringfenced.service
  line=$(grep -m 1 '^systemd-run --unit=ringfenced ' "$here/checkout/README.md")
  note "$line"
  # A unit of this name is installed here, as it is not where somebody takes this line.
  systemctl disable --quiet ringfenced.service
  mv /etc/systemd/system/ringfenced.service /root/installed.service
  systemctl daemon-reload
  check 'the systemd-run line of the README starts a transient unit' bash -c "cd $here/checkout && $line"
  check 'its daemon answers' until_true answers
  same 'it is transient' transient "$(systemctl show -P UnitFileState ringfenced.service)"
  agent plain echo one-liner
  same 'it runs an agent' '0 one-liner' "$code ${output%%$'\n'*}"
  systemctl stop ringfenced.service
  mv /root/installed.service /etc/systemd/system/ringfenced.service
  systemctl daemon-reload
  systemctl enable --quiet ringfenced.service
  systemctl start ringfenced.service
  check 'the installed one is back' until_true answers
}

last_checks() {
  local left
  check 'the ledger is unbroken over all of it' ringfence ledger verify
  check 'scripts/uninstall removes it' /opt/ringfence/scripts/uninstall
  same 'state and configuration stay' '/etc/ringfence/config.yaml /var/lib/ringfence/ledger' \
    "$(echo /etc/ringfence/config.yaml /var/lib/ringfence/ledg*)"
  left=$(ls -d /opt/ringfence* /usr/local/bin/ringfence /etc/systemd/system/ringfenced.service /run/ringfence 2>/dev/null)
  same 'no program is left' '' "$left"
  same 'no agent is left' '' "$(docker ps -aq --filter label=ringfence.run)"
}
