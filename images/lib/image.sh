# What real machines boot: build/image/flotilla.iso (CD, stick, drive; BIOS and UEFI) and the same for the network, vmlinuz,
# initrd, root.squashfs and boot.ipxe. The root is the lab's with a kernel's modules, firmware, and the files of
# images/image. Only files are written: no mount, no loop device.

# Words for the kernel, besides those that say where the root is.
IMAGE_KERNEL='console=tty0 console=ttyS0,115200n8 panic=30 quiet loglevel=4 systemd.show_status=0'
# More of them, baked in: FLOTILLA_IMAGE_WORDS='flotilla.join=… flotilla.drive=…', see docs/image.md.
IMAGE_WORDS=${FLOTILLA_IMAGE_WORDS:-}
IMAGE_ENABLED=(
  systemd-networkd.service systemd-resolved.service systemd-timesyncd.service flotilla-setup.service flotilla-network-boot.service flotilla-slot.timer
  flotilla-console@tty1.service flotilla-console@ttyS0.service
)
# 15 is 8 % smaller and takes four times as long.
IMAGE_LEVEL=${FLOTILLA_SQUASHFS_LEVEL:-6}
IMAGE_MB_MAX=400

GRUB_MODULES='part_gpt part_msdos iso9660 fat ext2 normal search search_label configfile serial terminal test echo loadenv minicmd reboot halt smbios all_video gfxterm'

build_firmware() {
  local what=firmware
  firmware=$BUILD/firmware-$({ hash_of images/image/packages.list; basename "$kernel"; basename "$base"; declare -f make_firmware debian; } | short_hash)
  [ -d "$firmware" ] || locked firmware make_firmware
}

# A tree to lay over the root: packages of images/image/packages.list that the root has not, and of firmware what the kernel's
# modules ask for. Its list of packages is beside it.
make_firmware() {
  local tmp=$BUILD/.new-firmware.$$ all deb name
  [ ! -d "$firmware" ] || return 0
  say 'firmware, and programs for drives, names and time'
  rm -rf "$BUILD"/.new-firmware.*
  mkdir -p "$tmp"
  all=$tmp/all
  COMPONENTS='main non-free-firmware' VARIANT=extract debian "$(packages_in images/image/packages.list)" "$all" \
    --extract-hook='find "$1/var/cache/apt/archives" -maxdepth 1 -name "*.deb" -exec ln -ft "'"$BUILD/debs"'" {} +'
  mkdir -p "$tmp/tree" "$tmp/asked"
  for name in $(packages_in images/image/packages.list | tr , ' '); do
    [ ! -e "$base/var/lib/dpkg/info/$name.list" ] && [ ! -e "$base/var/lib/dpkg/info/$name:amd64.list" ] || continue
    deb=$(find "$BUILD/debs" -name "${name}_*.deb" -printf '%T@ %p\n' | sort -rn | head -1 | cut -d' ' -f2-)
    dpkg-deb -x "$deb" "$tmp/tree"
    dpkg-deb -W --showformat='${Package} ${Version}\n' "$deb" >>"$tmp/packages"
  done
  rm -rf "$all"
  # What modules ask for, and where packages put it: as a file, or a link to one.
  chroot "$kernel" sh -c 'find usr/lib/modules -name "*.ko" -exec modinfo -F firmware {} +' | sort -u >"$tmp/wanted"
  (
    cd "$tmp/tree/usr/lib/firmware"
    while read -r name; do for file in "$name" $name; do [ ! -e "$file" ] || realpath -s --relative-to=. "$file" "$(realpath "$file")"; done; done <"$tmp/wanted" \
      | sort -u >"$tmp/kept"
    mkdir -p "$tmp/firmware"
    tar -c -T "$tmp/kept" | tar -x -C "$tmp/firmware"
  )
  # Microcode goes before the kernel's own RAM disk, not into the root.
  mkdir -p "$tmp/early/kernel/x86/microcode"
  cat "$tmp"/tree/usr/lib/firmware/intel-ucode/*-*-* >"$tmp/early/kernel/x86/microcode/GenuineIntel.bin"
  cat "$tmp"/tree/usr/lib/firmware/amd-ucode/microcode_amd*.bin >"$tmp/early/kernel/x86/microcode/AuthenticAMD.bin"
  rm -rf "$tmp/tree/usr/lib/firmware" "$tmp/tree"/usr/share/{man,info,locale,initramfs-tools,bash-completion,lintian,bug} "$tmp/tree/etc/kernel" "$tmp/tree/etc/default"
  find "$tmp/tree/usr/share/doc" -type f ! -name copyright -delete
  mv "$tmp/firmware" "$tmp/tree/usr/lib/firmware"
  mv "$tmp" "$firmware"
  forget_old firmware 1
  say "ready, $(du -sm "$firmware/tree/usr/lib/firmware" | cut -f1) MB of firmware"
}

build_image() {
  local what=image root base='' kernel='' firmware='' kit='' image epoch
  build_root
  build_base
  build_kernel
  build_kit
  build_firmware
  what=image
  root=$(realpath "$BUILD/root")
  # Times in the image are those of the last change of this checkout, or what is asked for.
  epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1)}
  image=$BUILD/image-$({ basename -a "$root" "$kernel" "$firmware" "$kit"; echo "$BOOT_MODULES $IMAGE_LEVEL $IMAGE_WORDS $epoch"; hash_of images/image images/boot images/lib/boot.sh images/lib/image.sh images/lib/kit.sh; } | short_hash)
  [ -d "$image" ] || locked image make_image
  ln -sfn "$(basename "$image")" "$BUILD/image"
  forget_old image 3
}

make_image() {
  local tmp=$BUILD/.new-image.$$ tree label version
  [ ! -d "$image" ] || return 0
  export SOURCE_DATE_EPOCH=$epoch
  rm -rf "$BUILD"/.new-image.* "$kernel"/scratch/*
  mkdir -p "$tmp/files"
  version=$(sed -n "s/^export const version = '\(.*\)';/\1/p" agent/version.ts)
  label=FLOTILLA_$(basename "$image" | cut -d- -f2 | tr a-f A-F)
  tree=$kernel/scratch/root
  cp -al "$root" "$tree"
  image_tree
  say 'initrd'
  cp "$kernel"/boot/vmlinuz-* "$tmp/files/vmlinuz"
  kit=$kernel boot_initrd "$tmp/rest"
  # An uncompressed archive first: the kernel looks for microcode only there.
  image_cpio "$firmware/early" >"$tmp/files/initrd"
  cat "$tmp/rest" >>"$tmp/files/initrd"
  rm "$tmp/rest"
  say 'root.squashfs'
  chroot "$kernel" env SOURCE_DATE_EPOCH="$epoch" mksquashfs /scratch/root /scratch/root.squashfs -comp zstd -Xcompression-level "$IMAGE_LEVEL" -b 256K -noappend -no-progress -no-exports >"$BUILD/image.log" 2>&1 \
    || { tail -n 5 "$BUILD/image.log" >&2; fail 'mksquashfs failed' 'all of its words: build/image.log'; }
  mv "$kernel/scratch/root.squashfs" "$tmp/files/"
  cp "$tree/usr/lib/flotilla/packages" "$tmp/packages.txt"
  (cd "$tree" && find . -printf '%y %m %U:%G %s %p %l\n' | sed 's/^d \(.*\) [0-9]* \(\.[^ ]*\)/d \1 - \2/' | LC_ALL=C sort -k5) | zstd -q >"$tmp/files.txt.zst"
  rm -rf "$tree"
  say 'flotilla.iso'
  image_iso
  image_net
  mv "$tmp" "$image"
  [ "$(du -m "$image/flotilla.iso" | cut -f1)" -le $IMAGE_MB_MAX ] || say "larger than the $IMAGE_MB_MAX MB it should have"
  say "ready: $(du -m "$image/flotilla.iso" | cut -f1) MB, of it $(du -m "$image/files/root.squashfs" | cut -f1) MB root, $(du -m "$image/files/initrd" | cut -f1) MB initrd"
}

# Lays over the root what only real machines have. Links are broken before anything is written: the lab's root stays as it is.
image_tree() {
  local name
  cp -al "$kernel/usr/lib/modules" "$tree/usr/lib/modules"
  tar -C "$firmware/tree" -c --owner=0 --group=0 . | tar -x -C "$tree" --no-overwrite-dir --keep-directory-symlink
  (cd images/image/rootfs && tar -c --owner=0 --group=0 --mode='u=rwX,go=rX' .) | tar -x -C "$tree" --no-overwrite-dir
  for name in passwd group shadow gshadow; do cp -a "$tree/etc/$name" "$tree/etc/$name.new" && mv "$tree/etc/$name.new" "$tree/etc/$name"; done
  tmp=$tree in_root systemd-sysusers
  rm -f "$tree"/etc/{passwd,group,shadow,gshadow}-
  ln -sfn /run/systemd/resolve/stub-resolv.conf "$tree/etc/resolv.conf"
  # The console shows what a person in front of the machine needs; nobody logs in there.
  rm -f "$tree/etc/systemd/system/getty@tty1.service"
  tmp=$tree in_root systemctl -q mask getty@tty1.service serial-getty@ttyS0.service getty-static.service
  tmp=$tree in_root systemctl -q enable "${IMAGE_ENABLED[@]}"
  mkdir -p "$tree/usr/lib/flotilla/boot"
  image_grub "$tree/usr/lib/flotilla/boot"
  {
    chroot "$tree" dpkg-query -Wf '${Package} ${Version}\n'
    cat "$firmware/packages"
    echo "linux-image $(kit=$kernel kernel_version)"
  } | LC_ALL=C sort -u >"$tree/usr/lib/flotilla/packages"
  printf '{ "version": "%s", "built": "%s" }\n' "$version" "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" >"$tree/usr/lib/flotilla/image.json"
  # What differs from build to build and says nothing.
  rm -rf "$tree"/var/log/* "$tree"/var/cache/{ldconfig,debconf,apt,man}/* "$tree"/var/lib/dpkg/*-old "$tree"/var/lib/apt/lists/* "$tree"/var/lib/systemd/random-seed
}

image_cpio() {
  (cd "$1" && find . -exec touch -hd "@$epoch" {} + && find . -print0 | LC_ALL=C sort -z | "$kernel/usr/lib64/ld-linux-x86-64.so.2" --library-path "$kernel/usr/lib/x86_64-linux-gnu" "$kernel/usr/bin/cpio" -0 -o -H newc --quiet --reproducible)
}

# image_grub DIR: what goes onto a boot drive besides the slots: boot.img (first sector), core.img (its own partition), esp.img.
image_grub() {
  local work in
  work=$(mktemp -d "$kit/scratch/grub.XXXXXX")
  in=/scratch/$(basename "$work")
  sed "s|@KERNEL@|$IMAGE_KERNEL|" images/image/grub-drive.cfg >"$work/grub.cfg"
  { echo '# GRUB Environment Block'; head -c 999 /dev/zero | tr '\0' '#'; } >"$work/grubenv"
  chroot "$kit" sh -euc "
    cd $in
    export SOURCE_DATE_EPOCH=$epoch
    grub-mkimage -O i386-pc -o core.img -p '(,gpt2)/grub' biosdisk linux16 $GRUB_MODULES
    grub-mkimage -O x86_64-efi -o BOOTX64.EFI -p /grub linux $GRUB_MODULES
    cp /usr/lib/grub/i386-pc/boot.img boot.img
    truncate -s 446 boot.img
    # The rest of GRUB is in the first partition, from 1 MiB on: both tell the one before it where, as 64-bit numbers.
    printf '\\000\\010\\000\\000\\000\\000\\000\\000' | dd of=boot.img bs=1 seek=92 conv=notrunc status=none
    printf '\\001\\010\\000\\000\\000\\000\\000\\000' | dd of=core.img bs=1 seek=500 conv=notrunc status=none
    truncate -s 16M esp.img
    touch -d @$epoch BOOTX64.EFI grub.cfg grubenv
    mformat -i esp.img -v FLOTILLA -N 46544c41 -t 256 -h 4 -s 32 ::
    mmd -i esp.img ::/EFI ::/EFI/BOOT ::/grub
    mcopy -m -i esp.img BOOTX64.EFI ::/EFI/BOOT/
    mcopy -m -i esp.img grub.cfg grubenv ::/grub/
  "
  [ "$(stat -c %s "$work/core.img")" -le 1048576 ] || fail 'GRUB is larger than its partition' 'fewer modules'
  cp "$work"/{boot.img,core.img,esp.img} "$1/"
  rm -rf "$work"
}

# A CD by El Torito, a drive by MBR and GPT: for BIOS and for UEFI each. Not by grub-mkrescue, which adds a file system for Macs
# with the same label.
image_iso() {
  local work in iso
  work=$(mktemp -d "$kit/scratch/iso.XXXXXX")
  in=/scratch/$(basename "$work")
  iso=$work/tree
  mkdir -p "$iso/boot/grub" "$iso/flotilla"
  cp "$tmp"/files/* "$iso/flotilla/"
  cp "$tmp/packages.txt" "$iso/flotilla/"
  printf '{ "version": "%s", "label": "%s", "root": "%s" }\n' "$version" "$label" "$(sha256sum <"$tmp/files/root.squashfs" | cut -d' ' -f1)" >"$iso/flotilla/image.json"
  sed -e "s|@KERNEL@|$IMAGE_KERNEL|" -e "s|@LABEL@|$label|" -e "s|@VERSION@|$version|" -e "s|@WORDS@|$IMAGE_WORDS|" images/image/grub-medium.cfg >"$iso/boot/grub/grub.cfg"
  printf 'search --no-floppy --set=root --label %s\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n' "$label" >"$work/early.cfg"
  chroot "$kit" sh -euc "
    cd $in
    export SOURCE_DATE_EPOCH=$epoch
    grub-mkimage -O i386-pc -o core.img -p /boot/grub -c early.cfg biosdisk linux16 $GRUB_MODULES
    cat /usr/lib/grub/i386-pc/cdboot.img core.img >tree/boot/grub/bios.img
    cp /usr/lib/grub/i386-pc/boot_hybrid.img .
    grub-mkimage -O x86_64-efi -o BOOTX64.EFI -p /boot/grub -c early.cfg linux $GRUB_MODULES
    touch -d @$epoch BOOTX64.EFI
    truncate -s 4M efi.img
    mformat -i efi.img -v FLOTILLACD -N 46544c42 -t 128 -h 2 -s 32 ::
    mmd -i efi.img ::/EFI ::/EFI/BOOT
    mcopy -m -i efi.img BOOTX64.EFI ::/EFI/BOOT/
  "
  find "$iso" -exec touch -hd "@$epoch" {} +
  (
    cd "$work"
    "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/xorriso" -as mkisofs -quiet -o flotilla.iso \
      -V "$label" -r -J -iso-level 3 -partition_offset 16 \
      -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info --grub2-mbr boot_hybrid.img \
      -appended_part_as_gpt -append_partition 2 C12A7328-F81F-11D2-BA4B-00A0C93EC93B efi.img \
      -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot tree >"$BUILD/image.log" 2>&1
  ) || { tail -n 20 "$BUILD/image.log" >&2; fail 'xorriso failed' 'all of its words: build/image.log'; }
  mv "$work/flotilla.iso" "$tmp/"
  rm -rf "$work"
}

# For a web server: iPXE loads all three, and the root goes along with the RAM disk, so no driver for a card is needed early.
image_net() {
  mv "$tmp/files" "$tmp/net"
  ln -s net "$tmp/files"
  cat >"$tmp/net/boot.ipxe" <<IPXE
#!ipxe
# Flotilla $version. Serve this directory by HTTP, and let DHCP name the URL of this file. More words for the kernel go behind
# "flotilla.state=auto": see docs/image.md.
kernel vmlinuz $IMAGE_KERNEL flotilla.root=/medium/root.squashfs flotilla.state=auto initrd=initrd.magic $IMAGE_WORDS
initrd initrd
initrd vmlinuz /medium/vmlinuz
initrd initrd /medium/initrd
initrd root.squashfs /medium/root.squashfs
boot
IPXE
}
