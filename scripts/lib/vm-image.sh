# Sourced by scripts/vm-test: a Debian machine on a disk, built once per suite and kept below .lab/vm.
# shellcheck shell=bash

VM_MIRROR=${VM_MIRROR:-http://deb.debian.org/debian}
# Needed to install and run the product, and what its test uses to look at it from outside.
VM_PACKAGES=(
  systemd systemd-sysv dbus udev linux-image-cloud-amd64 apparmor kmod iproute2 procps util-linux mount netbase e2fsprogs
  docker.io iptables ipset conntrack ca-certificates busybox-static dnsmasq-base openssl curl bash-completion man-db zsh
)
VM_DISK_SIZE=6G
# Bump it when what is written below changes.
VM_IMAGE_RECIPE=3

# vm_image SUITE: sets `vm_image` to a folder with disk.img, vmlinuz and initrd.img.
vm_image() {
  local suite=$1 digest work
  digest=$(printf '%s\n' "$VM_IMAGE_RECIPE" "$suite" "${VM_PACKAGES[@]}" | sha256sum | head -c 12)
  vm_image=$lab_cache/vm/$suite-$digest
  [[ -f $vm_image/initrd.img ]] && return 0
  mkdir -p "$lab_cache/vm"
  exec 7>"$lab_cache/vm/build.lock"
  flock -w 1800 7 || die 'another build of the machine does not end.'
  if [[ ! -f $vm_image/initrd.img ]]; then
    work=$(mktemp -d "$lab_cache/vm/build.XXXXXX")
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf --one-file-system '$work'" EXIT
    step "machine: bootstrapping Debian $suite" vm_bootstrap "$suite" "$work/root"
    vm_configure "$work/root"
    mkdir "$work/image"
    cp "$work"/root/boot/vmlinuz-* "$work/image/vmlinuz"
    cp "$work"/root/boot/initrd.img-* "$work/image/.initrd.img"
    step 'machine: writing the disk' mkfs.ext4 -q -F -L root -d "$work/root" "$work/image/disk.img" "$VM_DISK_SIZE"
    mv "$work/image/.initrd.img" "$work/image/initrd.img"
    rm -rf "$vm_image"
    mv "$work/image" "$vm_image"
    rm -rf --one-file-system "$work"
    trap - EXIT
  fi
  exec 7>&-
}

# Of debootstrap's own mounts nothing may stay, so it works in a mount namespace of its own.
vm_bootstrap() {
  local packages
  packages=$(IFS=,; printf '%s' "${VM_PACKAGES[*]}")
  [[ $1 != trixie ]] || packages=$packages,docker-cli
  DEBIAN_FRONTEND=noninteractive LC_ALL=C unshare --mount --propagation private \
    debootstrap --variant=minbase --include="$packages" "$1" "$2" "$VM_MIRROR"
}

vm_configure() {
  local target=$1
  echo ringfence-vm >"$target/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 ringfence-vm\n' >"$target/etc/hosts"
  echo '/dev/vda / ext4 rw 0 1' >"$target/etc/fstab"
  # The upstream is in the pretended internet of the test.
  echo 'nameserver 198.51.100.53' >"$target/etc/resolv.conf"
  rm -rf "$target"/var/cache/apt/archives/*.deb "$target"/var/lib/apt/lists/*
  mkdir -p "$target/etc/systemd/journald.conf.d" "$target/etc/systemd/system/multi-user.target.wants"
  printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' >"$target/etc/systemd/journald.conf.d/vm.conf"
  # A shell for whoever looks into a failure: scripts/vm-test --shell.
  mkdir -p "$target/etc/systemd/system/serial-getty@ttyS2.service.d"
  cat >"$target/etc/systemd/system/serial-getty@ttyS2.service.d/autologin.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I dumb
UNIT
  # What is tested comes on a second disk, a plain tar archive, and answers on the second serial line.
  cat >"$target/usr/local/sbin/vm-start" <<'SCRIPT'
#!/bin/sh
set -e
if [ ! -e /root/payload/unpacked ]; then
  mkdir -p /root/payload
  tar -C /root/payload -xf /dev/vdb
  touch /root/payload/unpacked
fi
exec /root/payload/guest
SCRIPT
  chmod 755 "$target/usr/local/sbin/vm-start"
  cat >"$target/etc/systemd/system/vm-start.service" <<'UNIT'
[Unit]
Description=What this machine was made to test
After=multi-user.target docker.service
ConditionPathExists=/dev/vdb
[Service]
Type=simple
ExecStart=/usr/local/sbin/vm-start
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
[Install]
WantedBy=multi-user.target
UNIT
  ln -s /etc/systemd/system/vm-start.service "$target/etc/systemd/system/multi-user.target.wants/vm-start.service"
}
