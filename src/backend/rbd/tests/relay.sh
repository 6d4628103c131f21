#!/bin/sh
# Plays `rbd` and `ceph` in unit tests of the RBD backend: hands its arguments and its input to the test, which keeps a small RBD
# (small.rs), and answers what that says. It finds the test beside the link by which it was started.
dir=${0%/*}
mkfifo "$dir/reply.$$"
# Open for both directions, so that nobody waits for the other end.
exec 3<>"$dir/reply.$$"
for arg in "${0##*/}" "$@"; do printf '%s\037' "$arg"; done >"$dir/args.$$"
case "$*" in *" import "*) cat >"$dir/stdin.$$" ;; esac
echo $$ >"$dir/requests"
read -r code <&3
rm -f "$dir/reply.$$"
case $code in die) kill -KILL $$ ;; esac
[ ! -s "$dir/out.$$" ] || cat "$dir/out.$$"
[ ! -s "$dir/err.$$" ] || cat "$dir/err.$$" >&2
rm -f "$dir/out.$$" "$dir/err.$$"
exit "$code"
