# The QEMU of VMs in lockstep: 11.1, from Debian's backports, in a directory that nothing else looks into. Debian's own QEMU
# stays what all other VMs run on. Its libraries are those of the base. @see docs/lockstep.md

LOCKSTEP_PACKAGES='qemu-system-x86 qemu-system-common qemu-system-data seabios'
# Of all they bring: the PC, its BIOS, the BIOS of its screen, and what QEMU itself puts into guests.
LOCKSTEP_KEPT='bin/qemu-system-x86_64 share/seabios/bios-256k.bin share/seabios/vgabios-stdvga.bin share/qemu/kvmvapic.bin share/qemu/linuxboot_dma.bin share/qemu/keymaps/en-us'
# The floor: before it, the owner's machine hangs or its twin's memory is not the same.
LOCKSTEP_VERSION_MIN=11.1

build_lockstep() {
  local base="${base:-}"
  [ -n "$base" ] || build_base
  lockstep=$BUILD/lockstep-$({ echo "$LOCKSTEP_PACKAGES $LOCKSTEP_KEPT $LOCKSTEP_VERSION_MIN"; declare -f make_lockstep debian; } | short_hash)
  [ -d "$lockstep" ] || locked lockstep make_lockstep
}

make_lockstep() {
  local what=lockstep tmp=$BUILD/.new-lockstep.$$ all=$BUILD/.new-lockstep.$$.all file version
  [ ! -d "$lockstep" ] || return 0
  say 'QEMU of the backports'
  rm -rf "$BUILD"/.new-lockstep.*
  # shellcheck disable=SC2086
  MORE_SUITES=$SUITE-backports VARIANT=extract debian "$(printf "%s/$SUITE-backports," $LOCKSTEP_PACKAGES)" "$all"
  # Started with the libraries it will have: a lack of them is found here.
  version=$("$base/lib64/ld-linux-x86-64.so.2" --library-path "$base/usr/lib/x86_64-linux-gnu" "$all/usr/bin/qemu-system-x86_64" --version | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p') \
    || fail 'QEMU of the backports does not start' 'a library of it may be missing in images/packages.list'
  dpkg --compare-versions "$version" ge "$LOCKSTEP_VERSION_MIN" || fail "the backports have QEMU $version" "it takes $LOCKSTEP_VERSION_MIN or later"
  mkdir -p "$tmp/share"
  for file in $LOCKSTEP_KEPT; do
    case $file in
      bin/*) cp "$all/usr/$file" "$tmp/" ;;
      */keymaps/*) install -D -m 644 "$all/usr/$file" "$tmp/share/keymaps/$(basename "$file")" ;;
      *) cp "$all/usr/$file" "$tmp/share/" ;;
    esac
  done
  cp "$all/usr/share/doc/qemu-system-common/copyright" "$tmp/copyright"
  echo "$version" >"$tmp/version"
  rm -rf "$all"
  mv "$tmp" "$lockstep"
  forget_old lockstep 2
  say "ready, QEMU $version, $(du -sm "$lockstep" | cut -f1) MB"
}
