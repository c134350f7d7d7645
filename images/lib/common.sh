# Shared by the parts of images/build. Sourced, not run.

# The Debian release all images are made of. The build machine may be older.
SUITE=trixie
BUILD=${FLOTILLA_BUILD:-$TOP/build}
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

started=$SECONDS
say() { printf '%-6s %3ds  %s\n' "$what" $((SECONDS - started)) "$*" >&2; }
fail() { printf '%-6s %s\n' "$what" "$1" >&2; [ -z "${2:-}" ] || echo "       $2" >&2; exit 1; }

# Hash of files and directories as they are: names, whether executable, link targets, contents.
hash_of() {
  for path in "$@"; do
    find "$path" \( -type f -perm -u+x -printf '%P x\n' -o -type f -printf '%P\n' -o -type l -printf '%P -> %l\n' \) | LC_ALL=C sort
    find "$path" -type f -print0 | LC_ALL=C sort -z | xargs -0r cat
  done | sha256sum
}

short_hash() { sha256sum | cut -c1-12; }

# Installs what is missing of the given Debian packages, and says so. Others may use apt at the same time: ours of other
# checkouts wait for one lock, and apt waits for its own (a fresh machine often upgrades itself first).
need() {
  local p missing=()
  for p in "$@"; do dpkg-query -Wf '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  (
    mkdir -p /run/lock; exec 8>/run/lock/flotilla-apt.lock; flock 8
    install_them() { DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=600 "${missing[@]}" </dev/null >/dev/null 2>&1; }
    update() { local n; for n in 1 2 3 4 5 6; do ! apt-get update -qq -o DPkg::Lock::Timeout=600 8>&- || return 0; sleep 10; done; return 1; }
    install_them 8>&- || { update && install_them 8>&-; }
  ) || fail "cannot install ${missing[*]}" "try: apt-get install ${missing[*]}"
}

# The machine's own Debian mirrors, as lines for $SUITE. apt itself is asked, so every format of its files works.
sources() {
  local codename targets main security suite
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  targets=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages')
  main=$(awk -v c="$codename" '$2 == c && $3 == "main" {print $1; exit}' <<<"$targets")
  security=$(awk -v c="$codename-security" '$2 == c && $3 == "main" {print $1; exit}' <<<"$targets")
  [ -n "$main" ] || fail "apt on this machine knows no Debian mirror for $codename" "see /etc/apt/sources.list"
  local parts=${COMPONENTS:-main}
  echo "deb [signed-by=$KEYRING] $main $SUITE $parts"
  echo "deb [signed-by=$KEYRING] $main $SUITE-updates $parts"
  for suite in ${MORE_SUITES:-}; do echo "deb [signed-by=$KEYRING] $main $suite $parts"; done
  [ -z "$security" ] || echo "deb [signed-by=$KEYRING] $security $SUITE-security $parts"
}

# debian NAMES OUTPUT [OPTION..]: unpacks a Debian with these packages.
debian() {
  local names=$1 output=$2 option options=()
  shift 2
  need mmdebstrap debian-archive-keyring
  while read -r option; do options+=(--aptopt="$option"); done < <(apt-config dump 2>/dev/null | grep -iE '^Acquire::https?::(Proxy|Verify)|^Acquire::Check-' || true)
  # Downloaded packages are kept: the images share many, and an edit of a list then costs no second download.
  mkdir -p "$BUILD/debs"
  sources | mmdebstrap --mode=root --variant="${VARIANT:-minbase}" --include="$names" "${options[@]}" \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/bash-completion/*' \
    --skip=download/empty --skip=essential/unlink \
    --setup-hook='mkdir -p "$1/var/cache/apt/archives" && find "'"$BUILD/debs"'" -name "*.deb" -exec ln -t "$1/var/cache/apt/archives" {} +' \
    "$@" --customize-hook='find "$1/var/cache/apt/archives" -maxdepth 1 -name "*.deb" -exec ln -ft "'"$BUILD/debs"'" {} +; rm -f "$1"/var/cache/apt/archives/*.deb' \
    "$SUITE" "$output" - >"$BUILD/$what.log" 2>&1 \
    || { tail -n 20 "$BUILD/$what.log" >&2; fail "mmdebstrap failed" "all of its words: build/$what.log"; }
}

# The packages named in a list file, joined by commas.
packages_in() { sed 's/#.*//' "$1" | tr -s ' \n' ',' | sed 's/^,//; s/,$//'; }

# locked NAME COMMAND..: one build of a thing at a time; who waits then finds it done, so the command must look again.
locked() {
  local name=$1
  shift
  mkdir -p "$BUILD"
  (
    exec 7>"$BUILD/.$name.lock"
    flock -n 7 || { say 'waiting for another run'; flock 7; }
    "$@" 7>&-
  )
}

# forget_old PREFIX NUMBER: of the cached trees of one kind, keeps the newest.
forget_old() {
  find "$BUILD" -maxdepth 1 -name "$1-*" -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2- | tail -n +$(($2 + 1)) | xargs -r rm -rf
}
