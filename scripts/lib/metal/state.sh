#!/bin/bash
# Makes the disk on which an emulated machine keeps what it writes, with what a rack's technician would have set up.
#   state.sh OUTPUT SIZE NODE NET SERVICE_NET STORAGE_NET TIMING WATCHDOG_SECONDS EXEC_PROGRAM
set -euo pipefail
output=$1 size=$2 node=$3 net=$4 service=$5 storage=$6 timing=$7 watchdog=$8 program=$9
k=${node#n}
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
etc=$tree/upper/etc
mkdir -p "$tree/work" "$etc"/{flotilla,modprobe.d,systemd/network,systemd/system/{multi-user.target.wants,serial-getty@ttyS0.service.d,local-fs.target.wants}} "$tree/upper/var" "$etc/flotilla-rig"
chmod 755 "$tree/upper" "$etc"

echo "$node" >"$etc/hostname"
tr -d - </proc/sys/kernel/random/uuid >"$etc/machine-id"
{
  echo '127.0.0.1 localhost'
  for n in 1 2 3 4 5 6 7 8 9; do echo "$net.$n n$n"; done
} >"$etc/hosts"
cat >"$etc/flotilla/agent.json" <<JSON
{ "name": "$node", "address": "$net.$k", "storageAddress": "$storage.$k", "stateDir": "/var/lib/flotilla", "timing": "$timing" }
JSON

# As in the appliance, with the time of this profile. The chip set's own watchdog would come first otherwise.
cat >"$etc/modprobe.d/flotilla-watchdog.conf" <<CONF
options i6300esb heartbeat=$watchdog nowayout=1
options softdog soft_margin=$watchdog nowayout=1
blacklist iTCO_wdt
CONF

card() { printf '[Match]\nName=%s\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' "$1" "$2" >"$etc/systemd/network/$1.network"; }
card eth0 "$net.$k"
card eth2 "$storage.$k"
ln -s /usr/lib/systemd/system/systemd-networkd.service "$etc/systemd/system/multi-user.target.wants/"

# Commands from outside. It sets its card up by itself: it must be there when nothing else is.
cp "$program" "$etc/flotilla-rig/exec.pl"
cat >"$etc/systemd/system/rig-exec.service" <<UNIT
[Unit]
Description=Commands of the rig
DefaultDependencies=no
After=sysinit.target
[Service]
ExecStartPre=/bin/sh -c 'ip link set eth3 up && ip addr replace $service.$k/24 dev eth3'
ExecStart=/usr/bin/perl /etc/flotilla-rig/exec.pl serve $service.$k 7
Restart=always
RestartSec=500ms
KillMode=process
OOMScoreAdjust=-900
[Install]
WantedBy=multi-user.target
UNIT
ln -s /etc/systemd/system/rig-exec.service "$etc/systemd/system/multi-user.target.wants/"
cat >"$etc/systemd/system/srv-shared.mount" <<UNIT
[Unit]
Description=Storage that all nodes see
[Mount]
What=shared
Where=/srv/shared
Type=9p
Options=trans=virtio,version=9p2000.L,msize=512000,cache=none
[Install]
WantedBy=local-fs.target
UNIT
ln -s /etc/systemd/system/srv-shared.mount "$etc/systemd/system/local-fs.target.wants/"
cat >"$etc/systemd/system/serial-getty@ttyS0.service.d/rig.conf" <<'UNIT'
[Service]
ExecStart=
# Without a login, which would start a second systemd.
ExecStart=-/usr/sbin/agetty --skip-login --login-program /bin/bash --keep-baud 115200 - xterm
UNIT

# Code that is made while it runs is what an emulated CPU is slowest with: the agent's takes almost half without the compilers.
mkdir "$etc/systemd/system/flotilla-agent.service.d"
{
  printf '[Service]\nExecStart=\n'
  sed -n 's#^ExecStart=/usr/bin/node #&--no-opt --no-sparkplug #p' "$(dirname "$0")/../../../systemd/flotilla-agent.service"
} >"$etc/systemd/system/flotilla-agent.service.d/rig.conf"

# Costs seconds of a start without KVM, and does nothing here.
for unit in systemd-logind.service systemd-rfkill.socket systemd-random-seed.service; do ln -s /dev/null "$etc/systemd/system/$unit"; done
# Else the first start would rebuild caches that fit.
touch "$etc/.updated" "$tree/upper/var/.updated"

truncate -s "$size" "$output"
mke2fs -q -t ext4 -L flotilla-state -E root_owner=0:0,lazy_itable_init=1 -d "$tree" "$output"
