#!/bin/bash
# Becomes one node of the lab. Runs in a mount namespace of its own, so that cgroup2, the node's disk and the merged
# root exist only there and vanish with the last process: the machine's own mount table never sees them.
#   node.sh DIR NODE ROOT NETNS CGROUP SHARE NET TIMING STORAGE
set -euo pipefail
dir=$1 node=$2 root=$3 netns=$4 cgroup=$5 share=$6 net=$7 timing=$8 storage=${9:-}

umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo $$ >"/sys/fs/cgroup$cgroup/cgroup.procs"

mount -o loop "$dir/disk.img" "$dir/disk"
mkdir -p "$dir/disk/upper" "$dir/disk/work"
mount -t overlay -o "lowerdir=$root,upperdir=$dir/disk/upper,workdir=$dir/disk/work" "lab-$node" "$dir/merged"

etc=$dir/merged/etc
echo "$node" >"$etc/hostname"
{
  echo '127.0.0.1 localhost'
  for k in 1 2 3 4 5 6 7 8 9; do echo "$net.$k n$k"; done
} >"$etc/hosts"
mkdir -p "$etc/flotilla"
more=
[ -z "$storage" ] || more='"storageAddress": "'$storage.${node#n}'", '
[ -s "$etc/flotilla/agent.json" ] || cat >"$etc/flotilla/agent.json" <<JSON
{ "name": "$node", "address": "$net.${node#n}", $more"stateDir": "/var/lib/flotilla", "timing": "$timing" }
JSON
# A node whose power is cut in its first half minute must still know who it is.
sync "$etc/flotilla/agent.json" "$etc/flotilla"

binds=(--bind=/dev/net/tun "--bind=$dir/watchdog:/dev/watchdog" "--bind=$share:/srv/shared")
[ ! -e /dev/fuse ] || binds+=(--bind=/dev/fuse)
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network \
  systemd-nspawn -q --register=no --keep-unit -D "$dir/merged" -M "$node" --uuid="$(cat "$dir/uuid")" \
  --network-namespace-path="$netns" --capability=all --link-journal=no --resolv-conf=off --timezone=off \
  "${binds[@]}" --console=read-only -b systemd.show_status=1
