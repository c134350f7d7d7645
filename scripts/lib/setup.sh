# What scripts/up and scripts/test both need on a machine. Sourced, after images/lib/common.sh.

# Node 20.19 or later, and the packages of package-lock.json, installed when the lock file is not the one installed.
need_node_modules() {
  command -v node >/dev/null && command -v npm >/dev/null || need nodejs npm
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' \
    || fail "Node $(node --version) is too old" 'Node 20.19 or later is needed: Debian 13 has it as nodejs'
  local want mark=node_modules/.flotilla-installed
  want=$(cat package.json package-lock.json | sha256sum)
  [ "$(cat "$mark" 2>/dev/null || true)" != "$want" ] || return 0
  mkdir -p "$BUILD"
  say 'installing npm packages'
  npm ci --no-audit --no-fund --loglevel=error >"$BUILD/npm.log" 2>&1 \
    || { tail -n 20 "$BUILD/npm.log" >&2; fail 'npm ci failed' 'all of its words: build/npm.log'; }
  printf '%s\n' "$want" >"$mark"
}
