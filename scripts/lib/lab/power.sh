#!/bin/bash
# Holds a node's power: it runs until the node is off, and switches one that has shut down to restart off and on again.
#   power.sh NODE_PROGRAM LAB_PROGRAM NODE COMMAND…
set -u
program=$1 lab=$2 node=$3
shift 3
"$@"
# systemd-nspawn's word for "it wants to be started again".
[ $? = 133 ] || exit
echo "power: $node restarts"
"$program" "$lab" kill "$node"
exec "$program" "$lab" boot "$node"
