#!/usr/bin/env bash
# Plays `ceph` for tests: a small volumes module. It behaves as a real one (16.2) was seen to, also where that is odd: `create`
# succeeds on anything and sets quota and mode back, a plain directory is taken for a subvolume, `rm` leaves users behind,
# `resize` shrinks. Its texts and exit codes are those of src/backend/ceph/replies.
#
# A test asks one thing after another: nothing here is locked, and little is started. It is started by a link; beside the link lie:
#   tree/     the file system. What the module knows of a directory is in its .sub/
#   users/    Ceph users: a directory each with key, mds and, where the module made it, tenant and at/
#   log       the calls, one a line
#   fault     how many changes succeed before one is broken off, and whether that one is done: "2 before", "2 after"
#   fsid
#   discreet  the admin may not see users
#   renamed   the file system is called "renamed", no longer "cephfs"
#   version3  subvolumes have the layout of the coming version 3, also those that had another one
#   second    there is a second file system, of which only the name is known
#   full      the data pool is full
set -u
dir=${0%/*}
while (($#)) && [[ $1 != fs && $1 != auth && $1 != fsid ]]; do shift; done

printf '%s\n' "$*" >>"$dir/log"
filesystem=cephfs
if [[ -e $dir/renamed ]]; then filesystem=renamed; fi

end() { # CODE TEXT
  echo "$2" >&2
  exit "$1"
}
missing() { end 2 "Error ENOENT: $1"; }

# Called before every change.
change() {
  [[ -e $dir/fault ]] || return 0
  local left when
  read -r left when <"$dir/fault"
  if ((left > 0)); then
    echo "$((left - 1)) $when" >"$dir/fault"
  elif [[ $when == before ]]; then
    end 1 'timed out'
  fi
}
# Called after every change.
changed() {
  [[ -e $dir/fault ]] || return 0
  local left when
  read -r left when <"$dir/fault"
  if [[ $when == after ]]; then
    if ((left == 0)); then end 1 'timed out'; fi
  fi
}

case $1 in
  fsid)
    printf '\n{"fsid":"%s"}\n' "$(<"$dir/fsid")"
    exit
    ;;
  auth)
    user=${3#client.}
    case $2 in
      get)
        [[ ! -e $dir/discreet ]] || end 13 'Error EACCES: access denied'
        [[ -d $dir/users/$user ]] || missing "failed to find client.$user in keyring"
        osd='allow rw pool=cephfs_data'
        if [[ -e $dir/users/$user/osd ]]; then osd=$(<"$dir/users/$user/osd"); fi
        printf '\n[{"entity":"client.%s","key":"%s","caps":{"mds":"%s","mon":"allow r","osd":"%s"}}]' \
          "$user" "$(<"$dir/users/$user/key")" "$(<"$dir/users/$user/mds")" "$osd"
        ;;
      rm)
        change
        if [[ -d $dir/users/$user ]]; then rm -r "${dir:?}/users/$user"; fi
        changed
        ;;
    esac
    exit
    ;;
esac

shift
kind=$1 verb=${2:-}
shift
if [[ $kind == ls ]]; then
  # A second one lists beside it, and holds nothing.
  second=
  if [[ -e $dir/second ]]; then second=',{"name":"second","metadata_pool":"second_meta","data_pools":["second_data"]}'; fi
  printf '\n[{"name":"'"$filesystem"'","metadata_pool":"cephfs_meta","data_pools":["cephfs_data"]}%s]\n' "$second"
  exit
fi
shift
if [[ $kind == subvolume && $verb == metadata ]]; then
  verb=metadata-$1
  shift
fi
if [[ $kind == subvolume && $verb == snapshot ]]; then
  verb=snapshot-$1
  shift
fi
fs=$1
shift
group=_nogroup words=()
size='' mode=755 uid=0 gid=0 pool=cephfs_data tenant='' shrink=1 isolated=0
while (($#)); do
  case $1 in
    --group_name) group=$2 ;;
    --size) size=$2 ;;
    --mode) mode=$2 ;;
    --uid) uid=$2 ;;
    --gid) gid=$2 ;;
    --pool_layout) pool=$2 ;;
    --tenant_id) tenant=$2 ;;
    --access_level) [[ $2 == rw ]] || end 22 "Error EINVAL: access level $2" ;;
    --no_shrink)
      shrink=0
      shift
      continue
      ;;
    --namespace-isolated)
      isolated=1
      shift
      continue
      ;;
    --*) end 22 "Invalid command: unused arguments: $1" ;;
    *)
      words+=("$1")
      shift
      continue
      ;;
  esac
  shift 2
done
if [[ $fs == second && -e $dir/second && $kind == subvolumegroup && $verb == ls ]]; then
  printf '\n[]\n'
  exit
fi
[[ $fs == "$filesystem" ]] || missing "FS '$fs' not found"
volumes=$dir/tree/volumes
names() { # DIRECTORY
  local first=1 entry
  printf '\n['
  for entry in "$1"/*; do
    if [[ -d $entry && ${entry##*/} != _* ]]; then
      ((first)) || printf ','
      first=0
      printf '\n    {\n        "name": "%s"\n    }' "${entry##*/}"
    fi
  done
  printf '\n]\n'
}

if [[ $kind == subvolumegroup ]]; then
  case $verb in
    create)
      change
      mkdir -p "$volumes/${words[0]}"
      changed
      ;;
    ls) names "$volumes" ;;
  esac
  exit
fi

at=$volumes/$group
[[ -d $at ]] || missing "subvolume group '$group' does not exist"
if [[ $verb == ls ]]; then
  names "$at"
  exit
fi
name=${words[0]}
base=$at/$name
sub=$base/.sub
TZ=UTC0 printf -v now '%(%F %T)T' -1

# Takes what is there for a subvolume, as the module does.
open() {
  [[ -d $base ]] || missing "subvolume '$name' does not exist"
  local above=${base%/*}
  while [[ $above != "$dir/tree" && $above != */. && ${#above} -gt ${#dir} ]]; do
    if [[ -e $above/.sub/marked ]]; then end 22 "Error EINVAL: invalid value specified for ceph.dir.subvolume"; fi
    above=${above%/*}
  done
  if [[ ! -d $sub ]]; then
    mkdir -p "$sub/meta" "$sub/auths"
    echo "/volumes/$group/$name" >"$sub/path"
    echo "$now" >"$sub/created"
    : >"$sub/marked"
  fi
  if [[ -e $sub/cloning ]]; then end 11 "Error EAGAIN: subvolume '$name' is not ready for operation $verb"; fi
  if [[ -e $sub/silent ]]; then end 110 'Error ETIMEDOUT: timed out'; fi
  if [[ -e $sub/broken ]]; then end 5 'Error EIO: error in getxattr'; fi
  if [[ -e $sub/retained ]]; then missing "subvolume '$name' is removed and has only snapshots retained"; fi
  path=$(<"$sub/path")
  if [[ -e $dir/version3 && $path != */mnt && $path != "/volumes/$group/$name" ]]; then
    mkdir -p "$base/roots/${path##*/}"
    mv "$dir/tree$path" "$base/roots/${path##*/}/mnt"
    path=/volumes/$group/$name/roots/${path##*/}/mnt
    echo "$path" >"$sub/path"
  fi
  data=$dir/tree$path
}
quoted() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}
caps() { # USER: writes its rights anew
  local mds='' osd='' place there
  for place in "$dir/users/$1/at"/*; do
    if [[ -e $place ]]; then
      mds+=${mds:+,}"allow rw path=$(<"$place")"
      there=${place##*/}
      there=$volumes/${there%%:*}/${there#*:}/.sub
      osd+=${osd:+,}"allow rw pool=$(<"$there/pool")"
      if [[ -e $there/namespace ]]; then osd+=" namespace=$(<"$there/namespace")"; fi
    fi
  done
  printf '%s' "$mds" >"$dir/users/$1/mds"
  printf '%s' "$osd" >"$dir/users/$1/osd"
}

case $verb in
  create)
    [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || end 22 "Invalid command: invalid chars in $name"
    [[ $pool == cephfs_data ]] || end 22 "Error EINVAL: invalid pool layout '$pool' -- need a valid data pool"
    change
    if [[ -e $dir/full ]]; then end 22 'Error EINVAL: exception in subvolume metadata: No space left on device'; fi
    if [[ ! -d $base ]]; then
      path=/volumes/$group/$name/$(</proc/sys/kernel/random/uuid)
      if [[ -e $dir/version3 ]]; then path=/volumes/$group/$name/roots/${path##*/}/mnt; fi
      mkdir -p "$dir/tree$path" "$sub/meta" "$sub/auths"
      : >"$dir/tree$path/.marked"
      echo "$path" >"$sub/path"
      echo "$now" >"$sub/created"
      echo "$pool" >"$sub/pool"
    fi
    open
    echo "$mode $uid $gid" >"$sub/mode"
    if [[ -n $size ]]; then echo "$size" >"$sub/quota"; fi
    if [[ ! -e $sub/pool ]]; then echo "$pool" >"$sub/pool"; fi
    if ((isolated)); then echo "fsvolumens_$name" >"$sub/namespace"; fi
    changed
    ;;
  metadata-ls)
    open
    printf '\n{'
    first=1
    for key in "$sub/meta"/*; do
      if [[ -e $key ]]; then
        ((first)) || printf ','
        first=0
        printf '\n    "%s": ' "${key##*/}"
        quoted "$(<"$key")"
      fi
    done
    printf '\n}\n'
    ;;
  metadata-set)
    open
    change
    # It counts as done.
    if [[ -e $dir/full ]]; then end 0 'error in write'; fi
    case ${words[2]} in *%* | *$'\n'*) end 22 "Error EINVAL: Traceback" ;; esac
    printf '%s' "${words[2]}" >"$sub/meta/${words[1],,}"
    changed
    ;;
  metadata-rm)
    open
    [[ -e $sub/meta/${words[1]} ]] || missing "key '${words[1]}' does not exist."
    change
    if [[ -e $dir/full ]]; then end 0 'error in write'; fi
    rm "$sub/meta/${words[1]}"
    changed
    ;;
  getpath)
    open
    printf '\n%s\n' "$path"
    ;;
  info)
    open
    [[ -e $sub/pool ]] || end 61 "Error ENODATA: error in getxattr"
    quota='"infinite"' namespace=''
    if [[ -e $sub/namespace ]]; then namespace=$(<"$sub/namespace"); fi
    if [[ -e $sub/quota ]]; then quota=$(<"$sub/quota"); fi
    # What is no more than a directory is of an older version.
    retention=', "snapshot-retention"'
    if [[ $path == "/volumes/$group/$name" ]]; then retention=''; fi
    used=0 mtime=$(<"$sub/created")
    for file in "$data"/*; do
      if [[ -e $file ]]; then
        mtime='2038-01-19 03:14:07'
        # Until a client gives back what it wrote, it does not count.
        [[ -e $dir/lagging ]] || used=$((used + $(stat -c %s "$file")))
      fi
    done
    printf '\n{"bytes_quota": %s, "bytes_used": %s, "created_at": "%s", "mtime": "%s", "data_pool": "%s", "pool_namespace": "%s", "path": "%s", "state": "complete", "type": "subvolume", "features": ["snapshot-clone", "snapshot-autoprotect"%s]}\n' \
      "$quota" "$used" "$(<"$sub/created")" "$mtime" "$(<"$sub/pool")" "$namespace" "$path" \
      "$retention"
    ;;
  resize)
    open
    used=0
    if ((shrink == 0 && words[1] < used)); then end 22 "Error EINVAL: Can't resize the subvolume."; fi
    change
    echo "${words[1]}" >"$sub/quota"
    changed
    printf '\n[{"bytes_used": 0}, {"bytes_quota": %s}, {"bytes_pcent": "0.00"}]\n' "${words[1]}"
    ;;
  authorize)
    open
    user=${words[1]}
    place=$group:$name
    if [[ -d $dir/users/$user ]]; then
      [[ -e $dir/users/$user/tenant ]] || end 1 "Error EPERM: auth ID: $user exists and not created by mgr plugin. Not allowed to modify"
      [[ $(<"$dir/users/$user/tenant") == "$tenant" ]] || end 1 "Error EPERM: auth ID: $user is already in use"
    fi
    change
    # Its record is emptied before it is written anew.
    if [[ -e $dir/full ]]; then
      rm -f "$dir/users/$user/tenant"
      end 28 'Error ENOSPC: error in write'
    fi
    mkdir -p "$dir/users/$user/at"
    printf '%s' "$tenant" >"$dir/users/$user/tenant"
    [[ -e $dir/users/$user/key ]] || echo 'AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==' >"$dir/users/$user/key"
    echo "$path" >"$dir/users/$user/at/$place"
    : >"$sub/auths/$user"
    caps "$user"
    changed
    # The key is told to those who name a tenant.
    printf '\n'
    if [[ -n $tenant ]]; then printf '%s\n' "$(<"$dir/users/$user/key")"; fi
    ;;
  deauthorize)
    open
    user=${words[1]}
    [[ -e $dir/users/$user/tenant ]] || missing "auth ID: $user doesn't exist"
    change
    if [[ -e $dir/full ]]; then
      rm -f "$dir/users/$user/tenant"
      end 28 'Error ENOSPC: error in write'
    fi
    rm -f "$sub/auths/$user" "$dir/users/$user/at/$group:$name"
    caps "$user"
    if [[ ! -s $dir/users/$user/mds ]]; then rm -r "${dir:?}/users/$user"; fi
    changed
    ;;
  authorized_list)
    open
    printf '\n['
    first=1
    for user in "$sub/auths"/*; do
      if [[ -e $user ]]; then
        ((first)) || printf ','
        first=0
        printf '{"%s": "rw"}' "${user##*/}"
      fi
    done
    printf ']\n'
    ;;
  snapshot-ls)
    open
    if [[ -e $sub/snapshots ]]; then printf '\n[{"name":"one"}]\n'; else printf '\n[]\n'; fi
    ;;
  evict)
    open
    change
    changed
    ;;
  rm)
    open
    if [[ -e $sub/snapshots ]]; then end 39 "Error ENOTEMPTY: subvolume '$name' has snapshots"; fi
    change
    rm -r "$base"
    changed
    ;;
  *) end 22 "no valid command found: $verb" ;;
esac
exit 0
