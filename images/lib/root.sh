# The appliance root: the base, the files of images/rootfs, the units, the programs. One read-only directory that
# all nodes of a lab share. It is a tree of hard links to the base, so new programs cost a second, not a rebuild.

# Units that a node starts by itself. The ledger and the radio are enabled by the agent once it has a cluster.
ROOT_ENABLED=(flotilla-agent.service flotilla-keeper.service libvirtd.socket virtlogd.socket)
# ipmievd comes with ipmitool, which is here to reach other machines' BMCs.
ROOT_DISABLED=(mosquitto.service etcd.service nftables.service ipmievd.service)
# Each either needs hardware, or a terminal, or wakes up for nothing in a system that is read-only.
ROOT_MASKED=(
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer logrotate.timer
  libvirt-guests.service virtlogd-admin.socket
  dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount
  getty@tty1.service console-getty.service systemd-pstore.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
  # The agent alone says which volumes are active, which disks have two replicas, and asks drives how they are.
  lvm2-monitor.service blk-availability.service lvm2-lvmpolld.socket dm-event.socket drbd.service smartmontools.service
)

build_root() {
  local what=root base='' lockstep='' root p programs=()
  build_base
  build_lockstep
  for p in build/dist/*.mjs; do [ ! -f "$p" ] || programs+=("$p"); done
  root=$BUILD/root-$({ echo "$base $lockstep"; hash_of images/rootfs systemd "${programs[@]}"; declare -f make_root; echo "${ROOT_ENABLED[*]} ${ROOT_DISABLED[*]} ${ROOT_MASKED[*]}"; } | short_hash)
  [ -d "$root" ] || locked root make_root
  ln -sfn "$(basename "$root")" "$BUILD/root"
  forget_old_roots "$root"
}

make_root() {
  local tmp=$BUILD/.new-root.$$
  [ ! -d "$root" ] || return 0
  rm -rf "$BUILD"/.new-root.*
  cp -al "$base" "$tmp"
  # A link to a unit would be followed, and written through.
  rm -f "$tmp/etc/systemd/system/etcd2.service"
  in_root systemctl -q disable "${ROOT_DISABLED[@]}"
  # tar unlinks before it writes, so the base keeps its own.
  (cd images/rootfs && tar -c --owner=0 --group=0 --mode='u=rwX,go=rX' .) | tar -x -C "$tmp" --no-overwrite-dir
  install -d "$tmp/usr/lib/flotilla" "$tmp/etc/flotilla" "$tmp/srv/shared"
  install -d -m 0711 "$tmp/var/lib/flotilla"
  cp -al "$lockstep" "$tmp/usr/lib/flotilla/qemu-lockstep"
  install -m 644 systemd/*.service systemd/*.slice "$tmp/usr/lib/systemd/system/"
  [ ${#programs[@]} = 0 ] || install -m 644 "${programs[@]}" "$tmp/usr/lib/flotilla/"
  if [ -s build/dist/flotilla.mjs ]; then
    install -d "$tmp/usr/share/man/man1"
    node build/dist/flotilla.mjs man >"$tmp/usr/share/man/man1/flotilla.1"
  fi
  in_root systemctl -q enable "${ROOT_ENABLED[@]}"
  in_root systemctl -q mask "${ROOT_MASKED[@]}"
  mv "$tmp" "$root"
  say "ready with ${#programs[@]} programs"
}

# systemctl in a root that does not run complains about /proc; it is right, and it does not matter.
in_root() { SYSTEMD_OFFLINE=1 chroot "$tmp" "$@" 2>>"$BUILD/root.log"; }

# Keeps this root, those under a lab's nodes, and the five newest: hard links are nearly free, but not unbounded.
forget_old_roots() {
  local keep=$1 old
  find "$BUILD" -maxdepth 1 -name 'root-*' -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2- | tail -n +6 | while read -r old; do
    [ "$old" = "$keep" ] || grep -qsx "$old" "$BUILD"/lab/*/root || rm -rf "$old"
  done
}
