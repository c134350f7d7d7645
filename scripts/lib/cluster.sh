# What scripts/up does with the nodes of a lab: makes them one cluster, and shows it. Each step looks first whether it
# is done already. Sourced, after images/lib/common.sh.

NODES=${FLOTILLA_NODES:-3}
CLUSTER=${FLOTILLA_CLUSTER:-lab}
export LAB_ID=${LAB_ID:-flotilla} LAB_NET=${LAB_NET:-10.79.0} LAB_GUEST_NET=${LAB_GUEST_NET:-10.79.100}
LAB_DIR=$BUILD/lab/$LAB_ID
# First port tried for the page on this machine; the next free one is taken.
PORT=${FLOTILLA_PORT:-8443}
DEMO_MEMORY=${FLOTILLA_DEMO_MEMORY:-256}
PROGRAM=/usr/lib/flotilla
STATE=/var/lib/flotilla

in_node() { local node=$1; shift; scripts/lab exec "$node" "$@"; }
nodes() { seq -f 'n%g' "$NODES"; }

# await SECONDS WHAT COMMAND..: until the command succeeds.
await() {
  local limit=$1 text=$2 end=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "$text: not within $limit s" "scripts/lab shell n1, then journalctl -e"
    sleep 0.3
  done
}

# Whether running nodes have the programs that were just packed.
lab_programs_are_new() {
  local mark=$LAB_DIR/programs now
  now=$(cat build/dist/*.mjs | short_hash)
  if [ ! -e "$mark" ]; then
    # The first time the nodes have them from the root they were booted with.
    (cd build/dist && cat ./*.mjs) | cmp -s - <(cd "$(cat "$LAB_DIR/root")$PROGRAM" && cat ./*.mjs) || { echo "$now" >"$mark"; return 1; }
    echo "$now" >"$mark"
    return 0
  fi
  [ "$(cat "$mark")" = "$now" ] && return 0
  echo "$now" >"$mark"
  return 1
}

in_a_cluster() { in_node "$1" test -e $STATE/cluster.json; }

found_cluster() {
  in_a_cluster n1 && return
  say "founding the cluster \"$CLUSTER\" on n1"
  # The answer has token and password of the first user; the node keeps them in files of root's.
  in_node n1 node $PROGRAM/flotilla-agent.mjs found --cluster "$CLUSTER" >/dev/null 2>"$LAB_DIR/found.log" \
    || { tail -n 5 "$LAB_DIR/found.log" >&2; fail 'n1 did not found a cluster' 'scripts/lab exec n1 journalctl -u flotilla-etcd -e'; }
}

join_node() {
  local node=$1
  # A token is a secret: it goes from node to node by a pipe, never as an argument.
  {
    in_node n1 node $PROGRAM/flotilla-agent.mjs token create | in_node "$node" node $PROGRAM/flotilla-agent.mjs join
  } >"$LAB_DIR/join.log" 2>&1
}

join_nodes() {
  local node
  for node in $(nodes | tail -n +2); do
    in_a_cluster "$node" && continue
    say "$node joins"
    join_node "$node" || {
      tail -n 5 "$LAB_DIR/join.log" >&2
      fail "$node did not join" "scripts/lab exec $node journalctl -u flotilla-agent -e"
    }
  done
}

start_controller() {
  in_node n1 systemctl is-active -q flotilla-controller || say 'controller on n1'
  in_node n1 systemctl enable -q --now flotilla-controller
  PORT=$(forwarded_port page n1:8443 "$PORT")
  keep_access
}

# forwarded_port NAME TARGET FIRST: the port of this machine that leads to the target. The one there is, else the first
# free one from FIRST on.
forwarded_port() {
  local kept=$LAB_DIR/$1.port port
  if [ "$(cut -d' ' -f2 "$kept" 2>/dev/null)" = "$2" ]; then
    port=$(cut -d' ' -f1 "$kept")
    kill -0 "$(cat "$LAB_DIR/forward/$port.pid" 2>/dev/null || echo x)" 2>/dev/null && echo "$port" && return
  fi
  port=$3
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  scripts/lab forward "$port" "$2" >/dev/null
  echo "$port $2" >"$kept"
  echo "$port"
}

voters() {
  in_node n1 env ETCDCTL_API=3 etcdctl --cacert $STATE/pki/ca.crt --cert $STATE/pki/node.crt --key $STATE/pki/node.key \
    --endpoints https://127.0.0.1:2379 --command-timeout=3s member list 2>/dev/null | grep -c 'started.*false$'
}

enough_voters() { [ "$(voters)" -ge "$1" ]; }

await_voters() {
  local wanted=1
  [ "$NODES" -lt 3 ] || wanted=3
  [ "$NODES" -lt 7 ] || wanted=5
  enough_voters "$wanted" || say "waiting for $wanted voters of the ledger"
  await 120 "$wanted voters of the ledger" enough_voters "$wanted"
}

# What a client on this machine needs: where, whom to believe, and token and password of the first user. Root's only.
keep_access() {
  local dir=$LAB_DIR/access
  install -d -m 0700 "$dir"
  in_node n1 cat $STATE/pki/ca.crt >"$dir/ca.crt"
  in_node n1 cat $STATE/admin-token >"$dir/token"
  in_node n1 sh -c "cat $STATE/admin-password || true" >"$dir/password" 2>/dev/null
  echo "https://127.0.0.1:$PORT" >"$dir/server"
  [ -e "$dir/demo-key" ] || ssh-keygen -q -t ed25519 -N '' -C demo -f "$dir/demo-key"
}

cli() { scripts/flotilla "$@"; }

# pick EXPRESSION: something of the JSON on standard input, called `it`.
pick() {
  node -e 'let text = ""; process.stdin.on("data", (d) => (text += d)).on("end", () => {
    const it = JSON.parse(text); console.log(new Function("it", `return ${process.argv[1]}`)(it) ?? ""); });' "$1"
}

# lacks KIND NAME: whether there is none of that name. Only "not found" is an absence; any other trouble ends it all.
lacks() {
  local code=0 words
  words=$(cli "$1" show "$2" 2>&1 >/dev/null) || code=$?
  [ $code = 0 ] && return 1
  [ $code = 3 ] && return 0
  fail "cannot look for the $1 \"$2\": $words" 'scripts/flotilla status'
}

# step WORDS COMMAND..: says it and does it; its own words are shown when it fails.
step() {
  local words=$1
  shift
  say "$words"
  "$@" >"$LAB_DIR/step.log" 2>&1 || { cat "$LAB_DIR/step.log" >&2; fail "failed: $words" 'scripts/flotilla status'; }
}

nodes_ready() { [ "$(cli node list --json | pick '(it.items ?? it).filter((n) => n.presence === "here" && n.state).length')" -ge "$NODES" ]; }
pool_ready() { [ "$(cli pool show shared --json | pick 'it.use.length')" -ge "$NODES" ]; }

await_nodes() { say 'waiting for every node to say how it is'; await 60 "$NODES nodes that say how they are" nodes_ready; }

# The port of this machine that leads to port 22 of the demo VM.
SSH_PORT=${FLOTILLA_SSH_PORT:-2222}

banner() { timeout 3 bash -c "exec 3<>/dev/tcp/127.0.0.1/$SSH_PORT && read -r -n 4 x <&3 && [ \"\$x\" = SSH- ]"; }

demo() {
  local net=$LAB_GUEST_NET
  ! lacks network default || step 'network "default" on the second card of every node' \
    cli network create default --bridge flbr0 --uplink eth1 --subnet "$net.0/24" --gateway "$net.254" --range "$net.10-$net.199"
  ! lacks pool local || step 'pool "local", a directory of each node' cli pool create local --kind local --path /srv/local
  ! lacks pool shared || step 'pool "shared", a directory all nodes see' cli pool create shared --kind shared --path /srv/shared
  await 60 'the pool "shared" on every node' pool_ready
  ! lacks image debian-13 || step 'image "debian-13"' cli image import "$BUILD/images/debian-13-guest.qcow2" debian-13 --pool shared
  ! lacks vm demo || step 'VM "demo"' cli vm create demo --image debian-13 --linked --pool shared --memory "${DEMO_MEMORY}M" \
    --nic network=default --hostname demo --ssh-key "$LAB_DIR/access/demo-key.pub" --note 'Made by scripts/up' --start
  DEMO_ADDRESS=$(cli vm show demo --json | pick 'it.spec.nics[0]?.address')
  [ -n "$DEMO_ADDRESS" ] || fail 'the demo VM has no address' 'scripts/flotilla vm show demo'
  SSH_PORT=$(forwarded_port ssh "$DEMO_ADDRESS:22" "$SSH_PORT")
  [ "$(cli vm show demo --json | pick 'it.power')" = running ] || { say 'the demo VM is not running: scripts/flotilla vm start demo'; return; }
  banner || say "the demo VM boots, without KVM in about half a minute; waiting for its login at $DEMO_ADDRESS"
  await 400 'a login prompt of the demo VM' banner
}

farewell() {
  say 'all is up'
  cat <<TEXT

The page:          https://127.0.0.1:$PORT/   (log in as admin; the password is in $LAB_DIR/access/password)
The demo VM:       $DEMO_ADDRESS, seen from here at 127.0.0.1 port $SSH_PORT

Try next:
  scripts/flotilla vm list
  ssh -i $LAB_DIR/access/demo-key -p $SSH_PORT -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null debian@127.0.0.1
  scripts/lab shell n2

scripts/down ends it all.
TEXT
}
