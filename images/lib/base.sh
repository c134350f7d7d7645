# The appliance without any file of ours: Debian and the packages of packages.list.

build_base() {
  local what=base names
  [ "$(id -u)" = 0 ] || fail 'building an image needs root' 'run it with sudo'
  base=$BUILD/base-$(hash_of images/packages.list images/lib/base.sh images/lib/common.sh)
  [ -d "$base" ] && return
  locked base
  [ ! -d "$base" ] || return 0
  names=$(packages_in images/packages.list)
  say "Debian $SUITE with $(tr ',' '\n' <<<"$names" | wc -l) packages and what they need"
  rm -rf "$BUILD"/.base.*
  debian "$names" "$BUILD/.base.$$"
  # mmdebstrap copies these from the build machine. An empty machine-id is filled at boot.
  : >"$BUILD/.base.$$/etc/machine-id"
  rm -f "$BUILD/.base.$$/etc/hostname" "$BUILD/.base.$$/etc/resolv.conf"
  mv "$BUILD/.base.$$" "$base"
  exec 9>&-
  say "ready, $(du -sm "$base" | cut -f1) MB"
}
