# A guest that is one small program: images/bare/main.c says what it does. Compiled here, by this machine's compiler.

BARE_SIZE=4M
BARE_FLAGS='-m32 -march=i686 -mgeneral-regs-only -O2 -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none -nostdlib -Wall -Wextra -Werror'

build_bare() {
  local what=bare image=$BUILD/images/bare.img hash
  hash=$(hash_of images/bare images/lib/bare.sh | short_hash)
  [ "$(cat "$image.hash" 2>/dev/null)" = "$hash" ] || locked bare make_bare
}

make_bare() {
  local tmp=$BUILD/.new-bare.$$ part
  [ "$(cat "$image.hash" 2>/dev/null)" != "$hash" ] || return 0
  need gcc binutils
  rm -rf "$BUILD"/.new-bare.*
  mkdir -p "$tmp" "$(dirname "$image")"
  for part in main.c entry.S boot.S; do
    # shellcheck disable=SC2086
    gcc $BARE_FLAGS -c "images/bare/$part" -o "$tmp/${part%.*}.o" || fail "images/bare/$part is not compiled" 'its compiler spoke above'
  done
  ld -m elf_i386 -Ttext 0x7c00 --oformat binary "$tmp/boot.o" -o "$tmp/boot"
  ld -m elf_i386 -T images/bare/link.ld --oformat binary "$tmp/entry.o" "$tmp/main.o" -o "$tmp/main"
  # boot.S reads so many sectors; the BIOS needs them to be there.
  [ "$(stat -c %s "$tmp/main")" -le $((64 * 512)) ] || fail 'the program is larger than what boot.S reads' 'raise both'
  cat "$tmp/boot" "$tmp/main" >"$tmp/disk"
  truncate -s "$BARE_SIZE" "$tmp/disk"
  mv "$tmp/disk" "$image"
  rm -rf "$tmp"
  echo "$hash" >"$image.hash"
  say "ready, $BARE_SIZE"
}
