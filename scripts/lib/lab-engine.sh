# Sourced by scripts/lab: an engine of another Debian release, beside the machine's own and never installed on it.
# shellcheck shell=bash
#
# All packages that the engine needs are unpacked into one folder, down to the C library, and the engine runs with that
# folder's /usr over the machine's, in a mount namespace of its own.

ENGINE_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
ENGINE_MIRROR=http://deb.debian.org/debian
ENGINE_PACKAGES=(docker.io containerd runc iptables kmod e2fsprogs)

# engine_folder NAME: a release of Debian that was fetched, or any folder with usr/sbin/dockerd.
engine_folder() {
  if [[ $1 == /* ]]; then echo "$1"; else echo "$lab_cache/engines/$1"; fi
}

fetch_engine() {
  local name=$1 folder archive suffix
  folder=$(engine_folder "$name")
  [[ ! -x $folder/usr/sbin/dockerd ]] || return 0
  [[ $name != /* ]] || die "there is no usr/sbin/dockerd in $name."
  [[ $name =~ ^[a-z]+$ ]] || die "'$name' is no release of Debian." 'scripts/lab up --engine trixie, or a folder'
  [[ -f $ENGINE_KEYRING ]] || die "nothing tells Debian's packages from others." 'install debian-archive-keyring'
  rm -rf "$folder" "$folder.apt"
  mkdir -p "$folder.apt"/{lists,archives}/partial "$folder.apt/root"
  : >"$folder.apt/status"
  echo "deb [signed-by=$ENGINE_KEYRING] $ENGINE_MIRROR $name main" >"$folder.apt/sources.list"
  engine_apt "$folder.apt" update -q -o Acquire::Languages=none -o APT::Update::Error-Mode=any
  engine_apt "$folder.apt" install -q -y --no-install-recommends --download-only "${ENGINE_PACKAGES[@]}"
  # The folders that later releases have below usr only, before any package puts something there.
  mkdir -p "$folder.apt/root/usr"/{bin,sbin,lib,lib64}
  for archive in bin sbin lib lib64; do ln -s "usr/$archive" "$folder.apt/root/$archive"; done
  for archive in "$folder.apt"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$archive" | tar -x --keep-directory-symlink -C "$folder.apt/root" --exclude=./dev
  done
  # What the installation of the package would choose: the same kind of iptables as Debian's default.
  for archive in iptables ip6tables; do
    for suffix in '' -save -restore; do
      ln -sf xtables-nft-multi "$folder.apt/root/usr/sbin/$archive$suffix"
    done
  done
  mv "$folder.apt/root" "$folder"
  rm -rf "$folder.apt"
}

# As if on an empty machine, so that everything the engine needs is downloaded.
engine_apt() {
  local folder=$1
  shift
  apt-get -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$folder/lists" \
    -o "Dir::State::status=$folder/status" -o "Dir::Cache=$folder" -o "Dir::Cache::archives=$folder/archives" "$@"
}

# The words that go before dockerd. What others of the lab mount is seen by the engine, and not the other way round.
engine_prefix() {
  [[ -n $1 ]] || return 0
  # shellcheck disable=SC2016 # the inner shell expands these
  printf '%s\0' nsenter "--mount=/proc/$(lab_pid mounts)/ns/mnt" unshare --mount --propagation slave sh -c \
    'mount --bind "$1/usr" /usr && shift && exec "$@"' engine "$(engine_folder "$1")"
}

# Mounts that are made on the machine after the engine's start would not reach it, since most machines share none. So
# everything in the lab lives among mounts of its own, and those are shared.
start_mounts() {
  start mounts nsenter "--net=/run/netns/$host_ns" unshare --mount --propagation private \
    sh -c 'mount --make-rshared / && exec sleep infinity'
  wait_for mounts 5 mounts_are_shared
}

mounts_are_shared() { awk '$5 == "/" && / shared:/ { found = 1 } END { exit !found }' "/proc/$(lab_pid mounts)/mountinfo"; }

# The words that go before a command in the lab.
mounts_prefix() {
  local pid
  pid=$(lab_pid mounts) || return 0
  # Entering mounts leads to their root folder.
  printf '%s\0' nsenter "--mount=/proc/$pid/ns/mnt" env --chdir="$PWD"
}

# Data of one engine is not for another: images are loaded again instead.
forget_data_of_another_engine() {
  local file=$lab_home/engine-name known=
  [[ ! -f $file ]] || known=$(<"$file")
  if [[ $known != "$1" ]]; then rm -rf --one-file-system "$lab_data"; fi
  mkdir -p "$lab_home" "$lab_data"
  printf '%s' "$1" >"$file"
}
