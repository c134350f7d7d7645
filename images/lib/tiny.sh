# A kernel and a busybox: for tests that want many VMs, or one in a few seconds.

TINY_SIZE_MB=48
TINY_MODULES='virtio_net virtio_blk ahci sr_mod isofs virtio_rng button evdev pvpanic_pci'
TINY_CMDLINE='console=ttyS0,115200 no_timer_check panic=5 net.ifnames=0 mitigations=off audit=0 lsm=landlock quiet'

build_tiny() {
  local what=tiny kit='' image=$BUILD/images/tiny.qcow2 hash
  hash=$({ echo "$SUITE $KIT_PACKAGES"; hash_of images/tiny images/lib/kit.sh images/lib/tiny.sh; } | short_hash)
  [ "$(cat "$image.hash" 2>/dev/null)" = "$hash" ] || locked tiny make_tiny
}

make_tiny() {
  local tree
  [ "$(cat "$image.hash" 2>/dev/null)" != "$hash" ] || return 0
  need gcc libc6-dev
  build_kit
  say 'kernel and busybox'
  gcc -static -Os -s -Wall -Wextra -Werror -o "$kit/scratch/serve" images/tiny/serve.c || fail 'images/tiny/serve.c is not compiled' 'its compiler spoke above'
  tree=$kit/scratch/tiny.$$
  rm -rf "$kit"/scratch/tiny.*
  mkdir -p "$tree/boot"
  cp "$kit/boot/vmlinuz-$(kernel_version)" "$tree/boot/vmlinuz"
  # shellcheck disable=SC2086
  KIT_PROGRAMS=$kit/scratch/serve kit_initrd "$tree/boot/initrd" images/tiny/init $TINY_MODULES
  kit_disk "$tree" "$TINY_SIZE_MB" "$image" "$TINY_CMDLINE"
  echo "$hash" >"$image.hash"
  say "ready, $(du -m "$image" | cut -f1) MB"
}
