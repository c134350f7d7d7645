# The appliance without any file of ours: Debian and the packages of packages.list.

build_base() {
  local what=base
  [ "$(id -u)" = 0 ] || fail 'building an image needs root' 'run it with sudo'
  base=$BUILD/base-$({ hash_of images/packages.list; declare -f make_base debian; } | short_hash)
  [ -d "$base" ] || locked base make_base
}

make_base() {
  local names tmp=$BUILD/.new-base.$$
  [ ! -d "$base" ] || return 0
  names=$(packages_in images/packages.list)
  say "Debian $SUITE with $(tr ',' '\n' <<<"$names" | wc -l) packages and what they need"
  rm -rf "$BUILD"/.new-base.*
  debian "$names" "$tmp"
  # mmdebstrap copies these from the build machine. An empty machine-id is filled at boot.
  : >"$tmp/etc/machine-id"
  rm -f "$tmp/etc/hostname" "$tmp/etc/resolv.conf"
  # Says that caches belong to this /usr: else systemd builds them anew at the first start of each node.
  touch "$tmp/etc/.updated" "$tmp/var/.updated"
  mv "$tmp" "$base"
  touch "$base"
  forget_old base 2
  say "ready, $(du -sm "$base" | cut -f1) MB"
}
