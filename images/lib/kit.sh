# The workshop for guest images: a Debian that is only unpacked, never set up, to run tools from by chroot. So the
# build machine needs none of them, and all of them are of the release the images are made of.

KIT_PACKAGES=base-files,dash,coreutils,findutils,linux-image-cloud-amd64,kmod,cpio,zstd,xz-utils,grub-common,grub-pc-bin,grub-efi-amd64-bin,mtools,fdisk,e2fsprogs,qemu-utils,busybox-static

build_kit() {
  kit=$BUILD/kit-$({ echo "$KIT_PACKAGES"; declare -f make_kit debian; } | short_hash)
  [ -d "$kit" ] || locked kit make_kit
}

make_kit() {
  local what=kit tmp=$BUILD/.new-kit.$$
  [ ! -d "$kit" ] || return 0
  say 'kernel and tools'
  rm -rf "$BUILD"/.new-kit.*
  VARIANT=extract debian "$KIT_PACKAGES" "$tmp"
  # Unpacked modules: a guest without KVM would spend seconds on it at each boot.
  chroot "$tmp" sh -c 'find usr/lib/modules -name "*.ko.xz" -exec xz -d -T0 {} + && depmod "$(ls usr/lib/modules)" && mkdir -p scratch && touch etc/mtab'
  mv "$tmp" "$kit"
  forget_old kit 1
}

kernel_version() { ls "$kit/usr/lib/modules"; }

# kit_modules NAME..: paths of these kernel modules and what they need, below usr/lib/modules, in order of loading.
kit_modules() {
  local name
  for name in "$@"; do
    chroot "$kit" modprobe --set-version "$(kernel_version)" --show-depends --ignore-install "$name" 2>/dev/null || true
  done | awk '$1 == "insmod" {sub("^/lib/", "usr/lib/", $2); sub("^/usr/lib/", "usr/lib/", $2); if (!seen[$2]++) print $2}'
}

# kit_initrd OUTPUT INIT MODULE..: an initial RAM disk of busybox, an init script, modules that it loads, and KIT_PROGRAMS.
kit_initrd() {
  local output=$1 init=$2 tree='' path
  shift 2
  kit_busybox
  for path in ${KIT_PROGRAMS:-}; do cp "$path" "$tree/bin/"; done
  mkdir -p "$tree/lib/modules"
  # Flat, in order of loading: init needs neither modprobe nor its tables.
  for path in $(kit_modules "$@"); do
    cp "$kit/$path" "$tree/lib/modules/"
    basename "$path" >>"$tree/lib/modules/order"
  done
  kit_pack "$init" "$output"
}

# Makes a tree for an initial RAM disk.
kit_busybox() {
  local path
  tree=$(mktemp -d "$kit/scratch/initrd.XXXXXX")
  mkdir -p "$tree"/{bin,dev,proc,sys,run,mnt,etc}
  cp "$kit/usr/bin/busybox" "$tree/bin/busybox"
  for path in sh mount umount insmod modprobe switch_root sleep cat echo mkdir findfs find sort rm; do ln -s busybox "$tree/bin/$path"; done
  mknod "$tree/dev/console" c 5 1
}

# kit_pack INIT OUTPUT: packs it, and removes it.
kit_pack() {
  install -m 755 "$1" "$tree/init"
  (cd "$tree" && find . -print0 | LC_ALL=C sort -z | "$kit/usr/lib64/ld-linux-x86-64.so.2" --library-path "$kit/usr/lib/x86_64-linux-gnu" "$kit/usr/bin/cpio" -0 -o -H newc --quiet --reproducible) \
    | chroot "$kit" zstd -q -15 >"$2"
  rm -rf "$tree"
}

# kit_disk TREE SIZE_MB OUTPUT CMDLINE: a disk with the tree as its second partition, bootable by BIOS and UEFI.
# Only files are written: no mount, no loop device.
kit_disk() {
  local tree=$1 size=$2 output=$3 cmdline=$4 work
  work=$(mktemp -d "$kit/scratch/disk.XXXXXX")
  local in=/scratch/$(basename "$work")
  cat >"$work/early.cfg" <<'CFG'
search --no-floppy --set=root --label guest-root
set prefix=($root)/boot/grub
configfile ($root)/boot/grub/grub.cfg
CFG
  mkdir -p "$tree/boot/grub"
  # On BIOS the 16-bit protocol: the other one reserves what the kernel will unpack to and moves all of it, byte by
  # byte, which takes four seconds without KVM.
  cat >"$tree/boot/grub/grub.cfg" <<CFG
if [ "\$grub_platform" = pc ]; then
  linux16 (\$root)/boot/vmlinuz root=LABEL=guest-root rw $cmdline
  initrd16 (\$root)/boot/initrd
else
  linux (\$root)/boot/vmlinuz root=LABEL=guest-root rw $cmdline
  initrd (\$root)/boot/initrd
fi
boot
CFG
  chroot "$kit" sh -euc "
    cd $in
    grub-mkimage -O i386-pc -o core.img -p /boot/grub -c early.cfg biosdisk part_msdos ext2 search search_label configfile linux16 normal test
    grub-mkimage -O x86_64-efi -o BOOTX64.EFI -p /boot/grub -c early.cfg part_msdos ext2 fat search search_label configfile linux normal test
    truncate -s 3M esp.img
    mformat -i esp.img -v ESP -t 96 -h 2 -s 32 ::
    mmd -i esp.img ::/EFI ::/EFI/BOOT
    mcopy -i esp.img BOOTX64.EFI ::/EFI/BOOT/
    truncate -s ${size}M disk.img
    printf 'label: dos\n1MiB,3MiB,ef\n4MiB,,83,*\n' | sfdisk -q --no-tell-kernel disk.img
    # 446 bytes of boot code, and the rest of GRUB right behind: where it looks when nobody tells it otherwise
    dd if=/usr/lib/grub/i386-pc/boot.img of=disk.img bs=446 count=1 conv=notrunc status=none
    dd if=core.img of=disk.img bs=512 seek=1 conv=notrunc status=none
    dd if=esp.img of=disk.img bs=1M seek=1 conv=notrunc status=none
  "
  mv "$tree" "$work/tree"
  chroot "$kit" sh -euc "
    cd $in
    mke2fs -q -t ext4 -L guest-root -E offset=4194304,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 \
      -O ^metadata_csum_seed,^orphan_file -m 1 -J size=16 -d tree disk.img \$(( (${size} - 4) * 1024 ))k
    qemu-img convert -q -O qcow2 -c -o compression_type=zstd disk.img disk.qcow2
  "
  mkdir -p "$(dirname "$output")"
  mv "$work/disk.qcow2" "$output.new"
  mv "$output.new" "$output"
  rm -rf "$work"
}
