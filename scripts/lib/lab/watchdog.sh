#!/bin/bash
# The watchdog device of a node: the first byte arms it, V disarms it, silence bites.
#   watchdog.sh PIPE SECONDS COMMAND…
set -u
# For reading and writing, so that it neither waits for a writer nor ends with one.
exec 3<>"$1"
seconds=$2
shift 2
while :; do
  read -rn1 byte <&3
  [ "$byte" != V ] || continue
  while read -rt "$seconds" -n1 byte <&3; do
    [ "$byte" != V ] || continue 2
  done
  echo "watchdog: not fed for $seconds s, it bites"
  exec 3>&-
  exec "$@"
done
