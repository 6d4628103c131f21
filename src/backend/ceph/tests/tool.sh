#!/bin/sh
# Plays `rbd`, `ceph` and `rados` in unit tests; fake.rs says how. It finds its orders beside the link by which it was started.
dir=${0%/*}
tool=${0##*/}
separator=$(printf '\037')

complain() { printf '%s %s\n' "$tool" "$*" >>"$dir/violations"; }

# The key may be in the key file and nowhere else.
key=$(cat "$dir/key")
case "$*" in *"$key"*) complain "has the key in an argument" ;; esac
if tr '\0' '\n' <"/proc/$$/environ" | grep -qF -e "$key"; then complain "has the key in its environment"; fi
tr '\0' '\n' <"/proc/$$/environ" | sed 's/=.*//' | grep -vxE 'PATH|LC_ALL|PYTHONUNBUFFERED|PYTHONDONTWRITEBYTECODE' |
  while read -r name; do complain "has $name in its environment"; done

timeouts=0
while [ $# -gt 0 ]; do
  case $1 in
    --keyfile) [ "$(cat "$2")" = "$key" ] || complain "has no key in its key file" ;;
    --conf | --keyring) [ "$2" = /dev/null ] || complain "reads $2" ;;
    --id) [ "$2" = admin ] || complain "is user $2" ;;
    -m) printf '%s\n' "$2" >>"$dir/monitors" ;;
    --client-mount-timeout | --rados-mon-op-timeout | --rados-osd-op-timeout) timeouts=$((timeouts + 1)) ;;
    --connect-timeout) ;;
    --no-mon-config)
      shift
      continue
      ;;
    --format) [ "$tool" = ceph ] || break ;;
    *) break ;;
  esac
  shift 2
done
[ "$timeouts" = 3 ] || complain "has $timeouts timeouts"

# Takes the first order that fits. One that is good for once is taken by making a directory, which only one can.
take() {
  joined="$tool $# "
  for arg in "$@"; do joined=$joined$separator$arg; done
  for order in "$dir"/once/* "$dir"/always/*; do
    # Nothing is started for it: a test may have given many orders.
    if [ ! -e "$order/pattern" ] || [ -e "$order/taken" ]; then continue; fi
    IFS= read -r pattern <"$order/pattern"
    # shellcheck disable=SC2254 # it is a pattern
    case $joined in $pattern) ;; *) continue ;; esac
    case $order in */always/*) return 0 ;; esac
    if mkdir "$order/taken" 2>/dev/null; then return 0; fi
  done
  return 1
}

# Calls are numbered in the order in which they are noted.
note() {
  number=1
  while ! mkdir "$dir/calls/$number" 2>/dev/null; do number=$((number + 1)); done
  printf '%s' "$tool" >"$dir/calls/$number/tool"
  for arg in "$@"; do printf '%s\037' "$arg"; done >"$dir/calls/$number/args"
  if [ -e "$dir/stdin.$$" ]; then mv "$dir/stdin.$$" "$dir/calls/$number/stdin"; fi
  : >"$dir/calls/$number/complete"
}

answer() {
  if ! take "$@"; then
    note "$@"
    complain "was not expected to be called with: $*"
    echo "Error EINVAL: the test did not expect this call" >&2
    return 22
  fi
  note "$@"
  read -r mode <"$order/mode"
  case $mode in
    hang) exec sleep 600 ;;
    crash) kill -KILL $$ ;;
    wait) while [ ! -e "$dir/released" ]; do sleep 0.02; done ;;
  esac
  cat "$order/out"
  cat "$order/err" >&2
  return "$(cat "$order/code")"
}

if [ $# -eq 0 ] && [ "$tool" = ceph ]; then
  printf '%s\n' $$ >>"$dir/sessions"
  if [ -e "$dir/refuses" ]; then
    cat "$dir/refuses" >&2
    exit 13
  fi
  [ ! -e "$dir/mute" ] || exit 0
  while read -r line; do
    case $line in
      tell\ *) echo "error handling command target: CephName: no . in ${line#tell }" >&2 ;;
      *)
        eval "set -- $line"
        answer "$@"
        ;;
    esac
  done
  exit 0
fi
cat >"$dir/stdin.$$"
answer "$@"
