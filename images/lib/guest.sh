# A small Debian for VMs: cloud-init (NoCloud), guest agent, ssh, login on the serial line; BIOS and UEFI.

# Serial console first in line for messages, no IO-APIC self test (it fails on busy machines without KVM), a panic
# reboots, and no defences against a neighbour that a test guest does not have: they are slow without KVM.
GUEST_CMDLINE='console=tty0 console=ttyS0,115200 no_timer_check panic=5 net.ifnames=0 mitigations=off audit=0 lsm=landlock quiet'

# What may stand between the kernel and its disk or its seed.
INITRD_MODULES='virtio_pci virtio_blk virtio_scsi sd_mod ahci ata_piix nvme ext4'

GUEST_SIZE_MB=1536
GUEST_ENABLED=(systemd-networkd.service ssh.service grow-root.service resolv-conf.service)
# No VM of ours needs them at start; without KVM each costs a tenth of a second or more.
GUEST_MASKED=(
  systemd-networkd-wait-online.service systemd-networkd-persistent-storage.service systemd-network-generator.service
  systemd-timesyncd.service systemd-pstore.service systemd-rfkill.socket systemd-hwdb-update.service
  systemd-firstboot.service systemd-remount-fs.service systemd-random-seed.service systemd-modules-load.service
  systemd-journal-flush.service systemd-udev-load-credentials.service systemd-hostnamed.socket systemd-binfmt.service
  systemd-pcrextend.socket systemd-pcrlock.socket systemd-creds.socket systemd-sysext.socket systemd-initctl.socket
  systemd-ask-password-console.path systemd-ask-password-wall.path systemd-tmpfiles-clean.timer
  systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service kmod-static-nodes.service
  modprobe@.service sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
  sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount run-lock.mount
  proc-sys-fs-binfmt_misc.automount apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer
  e2scrub_all.timer e2scrub_reap.service cloud-init-hotplugd.socket
)
# Programs that write units at each start. What they would write is known here: a serial console, and cloud-init.
GUEST_GENERATORS=(
  systemd-ssh-generator systemd-gpt-auto-generator systemd-hibernate-resume-generator systemd-cryptsetup-generator
  systemd-integritysetup-generator systemd-veritysetup-generator systemd-tpm2-generator systemd-bless-boot-generator
  systemd-rc-local-generator systemd-sysv-generator systemd-run-generator systemd-factory-reset-generator
  systemd-system-update-generator systemd-getty-generator systemd-import-generator cloud-init-generator
)
# Rules for devices that no VM has: each is matched against each device.
GUEST_UDEV_RULES=(
  60-autosuspend 60-dmi-id 60-drm 60-evdev 60-fido-id 60-infiniband 60-input-id 60-persistent-alsa
  60-persistent-hidraw 60-persistent-input 60-persistent-storage-mtd 60-persistent-storage-tape 60-persistent-v4l
  60-sensor 60-serial 64-btrfs 70-camera 70-joystick 70-memory 70-mouse 70-power-switch-none 70-touchpad
  75-probe_mtd 78-sound-card 81-net-dhcp 81-net-bridge 82-net-auto-link-local 90-iocost 90-vconsole 90-image-dissect
)

build_guest() {
  local what=guest kit='' image=$BUILD/images/debian-13-guest.qcow2 hash
  hash=$({ echo "$SUITE $KIT_PACKAGES"; hash_of images/guest images/lib/kit.sh images/lib/guest.sh; } | short_hash)
  [ "$(cat "$image.hash" 2>/dev/null)" = "$hash" ] || locked guest make_guest
}

make_guest() {
  local tree
  [ "$(cat "$image.hash" 2>/dev/null)" != "$hash" ] || return 0
  build_kit
  tree=$kit/scratch/guest.$$
  rm -rf "$kit"/scratch/guest.*
  say "Debian $SUITE with cloud-init, guest agent and ssh"
  debian "$(packages_in images/guest/packages.list)" "$tree"
  say 'settings'
  rm -f "$tree"/etc/{hostname,resolv.conf} "$tree"/etc/ssh/ssh_host_* "$tree/etc/apt/sources.list"
  : >"$tree/etc/machine-id"
  (cd images/guest/rootfs && tar -c --owner=0 --group=0 --mode='u=rwX,go=rX' .) | tar -x -C "$tree" --no-overwrite-dir
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
  cp -a "$kit/usr/lib/modules" "$tree/usr/lib/modules"
  SYSTEMD_OFFLINE=1 chroot "$tree" systemctl -q enable "${GUEST_ENABLED[@]}" 2>>"$BUILD/guest.log"
  SYSTEMD_OFFLINE=1 chroot "$tree" systemctl -q mask "${GUEST_MASKED[@]}" 2>>"$BUILD/guest.log"
  lighten_guest "$tree"
  # Says that caches belong to this /usr: else systemd builds them anew at the first start.
  touch "$tree/etc/.updated" "$tree/var/.updated"
  cp "$kit/boot/vmlinuz-$(kernel_version)" "$tree/boot/vmlinuz"
  # shellcheck disable=SC2086
  kit_initrd "$tree/boot/initrd" images/guest/init $INITRD_MODULES
  say 'disk'
  kit_disk "$tree" "$GUEST_SIZE_MB" "$image" "$GUEST_CMDLINE"
  rm -rf "$tree"
  echo "$hash" >"$image.hash"
  say "ready, $(du -m "$image" | cut -f1) MB"
}

# Takes out of a start what a VM does not use.
lighten_guest() {
  local tree=$1 name
  mkdir -p "$tree/etc/systemd/system-generators" "$tree/etc/udev/rules.d"
  for name in "${GUEST_GENERATORS[@]}"; do ln -sfn /dev/null "$tree/etc/systemd/system-generators/$name"; done
  for name in "${GUEST_UDEV_RULES[@]}"; do ln -sfn /dev/null "$tree/etc/udev/rules.d/$name.rules"; done
  mkdir -p "$tree/etc/systemd/system/"{getty.target.wants,multi-user.target.wants}
  ln -sfn /usr/lib/systemd/system/serial-getty@.service "$tree/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
  ln -sfn /usr/lib/systemd/system/cloud-init.target "$tree/etc/systemd/system/multi-user.target.wants/cloud-init.target"
  # cloud-init checks settings with it if it is there: half a second at each start, and the agent writes them.
  rm -rf "$tree"/usr/lib/python3/dist-packages/jsonschema
}
