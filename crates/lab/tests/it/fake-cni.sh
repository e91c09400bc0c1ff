#!/bin/sh
# A CNI plugin for tests of the kubelet: a veth pair and a host route, addresses counted up.
# Below /run/fakecni of the node: log (calls), full (ADD fails), stuck (the next DEL fails).
d=/run/fakecni; mkdir -p $d/ips
input=$(cat)
echo "$CNI_COMMAND id=$CNI_CONTAINERID netns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS path=$CNI_PATH in=$input" >> $d/log
refuse() { echo "{\"cniVersion\":\"1.1.0\",\"code\":$1,\"msg\":\"$2\"}"; exit 1; }
ns=$(basename "$CNI_NETNS")
case $CNI_COMMAND in
STATUS) exit 0 ;;
ADD)
  [ -e $d/full ] && refuse 101 "no address left in pool default"
  n=2; while ! mkdir $d/ips/$n 2>/dev/null; do n=$((n+1)); done
  echo "$CNI_CONTAINERID" > $d/ips/$n/owner
  set -e
  ip link add p$n type veth peer name q$n
  ip link set q$n netns "$ns"
  ip -n "$ns" link set q$n name eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" addr add 10.244.1.$n/32 dev eth0
  ip -n "$ns" route add 169.254.1.1 dev eth0
  ip -n "$ns" route add default via 169.254.1.1
  echo 1 > /proc/sys/net/ipv4/conf/p$n/proxy_arp
  ip link set p$n up
  ip route add 10.244.1.$n dev p$n
  echo "{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.244.1.$n/32\"}]}" ;;
DEL)
  if [ -e $d/stuck ]; then rm $d/stuck; refuse 11 "try again later"; fi
  for f in $d/ips/*/owner; do
    [ -e "$f" ] && [ "$(cat "$f")" = "$CNI_CONTAINERID" ] || continue
    n=$(basename "$(dirname "$f")"); ip link del p$n 2>/dev/null; rm -r $d/ips/$n
  done ;;
*) refuse 4 "unknown command" ;;
esac
