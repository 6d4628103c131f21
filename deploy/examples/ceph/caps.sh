#!/bin/sh
# Prints the capabilities that a Ceph user of berth needs, and no more:
#
#   sh caps.sh rbd POOL...           for osd: makes and removes images in these pools. With a dataPool, both pools
#   sh caps.sh cephfs FS GROUP...    for mgr: makes and removes subvolumes in these groups of a file system
#
#   ceph auth get-or-create client.berth mon 'profile rbd' osd "$(sh caps.sh rbd kube)"
#   ceph auth get-or-create client.berth-cephfs mon 'allow r' mgr "$(sh caps.sh cephfs cephfs kubernetes)"
set -eu

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}

list=
add() { list="${list:+$list, }$1"; }

[ $# -ge 2 ] || usage
kind=$1
shift
case $kind in
  rbd)
    for pool in "$@"; do add "profile rbd pool=$pool"; done
    ;;
  cephfs)
    [ $# -ge 2 ] || usage
    fs=$1
    shift
    add "allow command \"fs subvolumegroup ls\" with vol_name=$fs"
    for group in "$@"; do
      add "allow command \"fs subvolumegroup create\" with vol_name=$fs group_name=$group"
      for command in create ls info resize rm authorize deauthorize authorized_list evict \
        'metadata ls' 'metadata set' 'metadata rm' 'snapshot ls'; do
        add "allow command \"fs subvolume $command\" with vol_name=$fs group_name=$group"
      done
    done
    ;;
  *) usage ;;
esac
printf '%s\n' "$list"
