# What machines boot, emulated or of metal: build/boot/{vmlinuz,initrd,root.squashfs}. The root is the lab's with a kernel's
# modules in it. The kernel is a tree of its own, only unpacked, with the tools to pack: the lab's root needs neither.

KERNEL_PACKAGES=base-files,dash,coreutils,findutils,linux-image-amd64,kmod,cpio,zstd,xz-utils,busybox-static,squashfs-tools

# What a machine with VMs has no use for: 60 % of all modules by size.
KERNEL_UNWANTED=(
  sound drivers/media drivers/gpu drivers/staging drivers/bluetooth net/bluetooth drivers/net/wireless net/mac80211 net/wireless
  drivers/iio drivers/input/touchscreen drivers/input/tablet drivers/input/joystick drivers/infiniband drivers/comedi
  drivers/isdn drivers/mtd drivers/net/can drivers/net/hamradio drivers/net/arcnet drivers/net/ieee802154 drivers/net/wwan drivers/pcmcia
  drivers/video drivers/accel drivers/firewire drivers/parport drivers/rc net/can net/ieee802154 net/nfc net/batman-adv
  fs/ocfs2 fs/gfs2 fs/jfs fs/reiserfs fs/hfs fs/hfsplus fs/ufs fs/affs fs/befs fs/minix fs/nilfs2 fs/f2fs fs/ubifs fs/jffs2 fs/coda fs/afs
)

# Between the kernel and its root: file systems and what may carry them. Drivers for the machine's controllers are loaded by
# what its buses say is there.
BOOT_MODULES='loop squashfs overlay ext4 crc32c_generic isofs vfat nls_cp437 nls_ascii sd_mod sr_mod virtio_pci virtio_blk virtio_scsi
  nvme ahci ata_piix usb_storage uas xhci_pci ehci_pci uhci_hcd ohci_pci mpt3sas megaraid_sas hpsa smartpqi aacraid vmd'

# zstd: 6 takes seconds; for what is shipped 15 is 8 % smaller.
SQUASHFS_LEVEL=${FLOTILLA_SQUASHFS_LEVEL:-6}

build_kernel() {
  local what=kernel
  kernel=$BUILD/kernel-$({ echo "$KERNEL_PACKAGES ${KERNEL_UNWANTED[*]}"; declare -f make_kernel debian; } | short_hash)
  [ -d "$kernel" ] || locked kernel make_kernel
}

make_kernel() {
  local tmp=$BUILD/.new-kernel.$$ part
  [ ! -d "$kernel" ] || return 0
  say 'kernel and its modules'
  rm -rf "$BUILD"/.new-kernel.*
  VARIANT=extract debian "$KERNEL_PACKAGES" "$tmp"
  for part in "${KERNEL_UNWANTED[@]}"; do rm -rf "$tmp"/usr/lib/modules/*/kernel/"$part"; done
  # Unpacked: squashfs packs them better as a whole, and unpacking each at every boot takes seconds without KVM.
  chroot "$tmp" sh -c 'find usr/lib/modules -name "*.ko.xz" -print0 | xargs -0r xz -d -T0 && depmod "$(ls usr/lib/modules)" && mkdir -p scratch && touch etc/mtab'
  rm -rf "$tmp"/var/cache "$tmp"/usr/lib/debug
  mv "$tmp" "$kernel"
  forget_old kernel 1
  say "ready, modules of $(du -sm "$kernel/usr/lib/modules" | cut -f1) MB"
}

build_boot() {
  local what=boot root kernel='' boot
  build_root
  what=boot
  root=$(realpath "$BUILD/root")
  build_kernel
  boot=$BUILD/boot-$({ echo "$root $kernel $BOOT_MODULES $SQUASHFS_LEVEL"; hash_of images/boot images/lib/boot.sh images/lib/kit.sh; } | short_hash)
  [ -d "$boot" ] || locked boot make_boot
  ln -sfn "$(basename "$boot")" "$BUILD/boot"
  forget_old boot 3
}

make_boot() {
  local tmp=$BUILD/.new-boot.$$ tree kit=$kernel
  [ ! -d "$boot" ] || return 0
  rm -rf "$BUILD"/.new-boot.* "$kernel"/scratch/*
  mkdir -p "$tmp"
  cp "$kernel"/boot/vmlinuz-* "$tmp/vmlinuz"
  say 'initrd'
  boot_initrd "$tmp/initrd"
  say 'root.squashfs'
  tree=$kernel/scratch/root
  cp -al "$root" "$tree"
  cp -al "$kernel/usr/lib/modules" "$tree/usr/lib/modules"
  chroot "$kernel" mksquashfs /scratch/root /scratch/root.squashfs -comp zstd -Xcompression-level "$SQUASHFS_LEVEL" -b 256K -noappend -no-progress >"$BUILD/boot.log" 2>&1 \
    || { tail -n 5 "$BUILD/boot.log" >&2; fail 'mksquashfs failed' 'all of its words: build/boot.log'; }
  mv "$kernel/scratch/root.squashfs" "$tmp/"
  rm -rf "$tree"
  mv "$tmp" "$boot"
  say "ready: $(du -m "$boot/root.squashfs" | cut -f1) MB root, $(du -m "$boot/initrd" | cut -f1) MB initrd"
}

# With modprobe's tables, so that drivers are found by what the machine's buses report.
boot_initrd() {
  local tree='' path
  kit_busybox
  ln -s busybox "$tree/bin/chroot"
  # Where a network loader puts the packed root.
  mkdir "$tree/medium"
  # shellcheck disable=SC2086
  for path in $(kit_modules $BOOT_MODULES); do install -D -m 644 "$kit/$path" "$tree/${path#usr/}"; done
  cp "$kit/usr/lib/modules/$(kernel_version)"/modules.{order,builtin,builtin.modinfo} "$tree/lib/modules/$(kernel_version)/"
  chroot "$kit" depmod -b "/scratch/$(basename "$tree")" "$(kernel_version)"
  kit_pack images/boot/init "$1"
}
