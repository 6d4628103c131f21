//! Programs in front of `rbd`, `ceph` and `rados` that write down each call, and kill berth at one of them: [`Steps`].
//!
//! What is called goes through to the real program as it is: arguments, input, output and exit code. `ceph` as a session,
//! which is asked by its standard input, is followed line by line.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// When berth is killed, seen from the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call is never made.
    Before,
    /// The call is made when berth is dead already: what it left behind works on.
    Behind,
    /// The call is done, and berth never learns it.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::Behind, Self::After];
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::Behind => "behind",
            Self::After => "after",
        })
    }
}

/// The programs, and what they wrote down.
#[derive(Debug)]
pub struct Steps {
    dir: PathBuf,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `rbd create`, `ceph fs subvolume rm`: the words that stand before any value.
    pub verb: String,
    /// Everything: the arguments, or the line that a session was given.
    pub line: String,
}

impl Step {
    /// Whether it may change anything in the cluster.
    #[must_use]
    pub fn changes(&self) -> bool {
        let reads =
            ["info", "status", "ls", "list", "get", "fsid", "diff", "children", "getpath", "authorized_list"];
        let dumps = self.verb.starts_with("rados list") || self.verb.starts_with("rados get");
        !dumps
            && !self
                .verb
                .split(' ')
                .next_back()
                .is_some_and(|last| reads.contains(&last) || last.starts_with("get-"))
    }
}

impl Steps {
    /// Makes them in `dir`, which must not exist yet.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
        for name in ["rbd", "ceph", "rados"] {
            let real = real(name)?;
            let file = dir.join(name);
            let text = PROGRAM
                .replace("@DIR@", &dir.display().to_string())
                .replace("@NAME@", name)
                .replace("@REAL@", &real.display().to_string());
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("make {} a program", file.display()))?;
        }
        let steps = Self { dir: dir.to_owned() };
        steps.forget()?;
        Ok(steps)
    }

    /// The program that stands for `rbd` or `ceph`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Begins to count anew.
    pub fn forget(&self) -> Result<()> {
        for file in ["armed", "struck"] {
            match fs::remove_file(self.dir.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("forget the steps");
                }
                _ => {}
            }
        }
        fs::write(self.dir.join("calls"), "").context("forget the steps")
    }

    /// Kills process `pid` at the call of `verb` with this number, counted from 1 since [`Steps::forget`].
    pub fn arm(&self, verb: &str, number: usize, moment: Moment, pid: i32) -> Result<()> {
        // Complete or not at all: a program may be reading it.
        let file = self.dir.join("arming");
        fs::write(&file, format!("{number} {moment} {pid} {verb}\n")).context("arm the steps")?;
        fs::rename(&file, self.dir.join("armed")).context("arm the steps")
    }

    /// Whether the call came that it was armed for.
    #[must_use]
    pub fn struck(&self) -> bool {
        self.dir.join("struck").exists()
    }

    /// The calls since [`Steps::forget`].
    pub fn calls(&self) -> Result<Vec<Step>> {
        let text = fs::read_to_string(self.dir.join("calls")).context("read the calls")?;
        Ok(text.lines().map(Step::read).collect())
    }

    /// Everything that was ever written down, with the programs' environments: where no secret may be.
    pub fn record(&self) -> Result<String> {
        fs::read_to_string(self.dir.join("record")).context("read the record of calls")
    }
}

impl Step {
    fn read(line: &str) -> Self {
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let plain = |word: &&&str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_')
        };
        // The options of every call stand in front or behind; the words of the command stand together.
        let begin = rest.iter().position(|word| VERBS.contains(word)).unwrap_or(rest.len());
        let verb: Vec<&str> = rest
            .get(begin..)
            .unwrap_or_default()
            .iter()
            .take_while(|word| plain(word) && !word.starts_with('-'))
            .copied()
            .collect();
        // Behind the words of a command, plain values may stand.
        let words = match verb.as_slice() {
            ["trash" | "image-meta" | "snap" | "auth" | "osd" | "fs", ..] if program == "rbd" => 2,
            ["fs", _, "metadata" | "snapshot", ..] => 4,
            ["fs", "ls", ..] | ["auth", ..] => 2,
            ["fs", ..] => 3,
            _ => 1,
        };
        let verb = verb.get(..words).unwrap_or(&verb);
        Self { verb: format!("{program} {}", verb.join(" ")), line: line.to_owned() }
    }
}

/// The first words of the commands that a provisioner may call.
const VERBS: [&str; 20] = [
    "listomapvals",
    "getomapval",
    "create",
    "import",
    "info",
    "status",
    "ls",
    "list",
    "rm",
    "remove",
    "resize",
    "trash",
    "image-meta",
    "snap",
    "children",
    "diff",
    "fs",
    "auth",
    "fsid",
    "osd",
];

fn real(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("there is no PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("there is no program {name} in PATH"))
}

/// One process writes its line at a time; the number of the line is the number of the call.
const PROGRAM: &str = r#"#!/bin/bash
here=@DIR@
real=@REAL@

# Counts a call and tells what is to be done with it: go, before, behind or after; then whom it kills.
enter() {
    local count number moment pid verb words
    exec 8>>"$here/lock"
    flock 8
    printf '%s\n' "@NAME@ $1" >>"$here/calls"
    { printf '%s\n' "@NAME@ $1"; tr '\0' '\n' <"/proc/$$/environ"; } >>"$here/record"
    read -r number moment pid verb 2>/dev/null <"$here/armed"
    verdict=go
    if [[ -n $verb && $verb == "@NAME@ "* ]]; then
        # Its words stand together somewhere in the line, which begins with the program.
        words=" ${verb#* } "
        if [[ "$1 " == "${words# }"* || " $1 " == *"$words"* ]]; then
            count=$(grep -c -F -e "$words" <(sed 's/$/ /' "$here/calls"))
            if [[ $count == "$number" ]]; then
                : >"$here/struck"
                verdict="$moment $pid"
            fi
        fi
    fi
    exec 8>&-
}

end() {
    kill -KILL "$1"
    # It is gone when it has been taken down, or is nothing but an entry that waits for its parent.
    while [[ -e /proc/$1/stat ]] && ! grep -q ') Z ' "/proc/$1/stat" 2>/dev/null; do sleep 0.01; done
}

session=1
for word in "$@"; do
    case $word in
        create | import | info | status | ls | list | rm | remove | resize | trash | image-meta | snap | children | diff | \
            fs | auth | fsid | osd | export | rename | mv | namespace | lock) session= ;;
    esac
done
if [[ -z $session || @NAME@ != ceph ]]; then
    enter "$*"
    read -r what pid <<<"$verdict"
    case $what in
        go) exec "$real" "$@" ;;
        before) end "$pid"; exit 137 ;;
        behind) end "$pid"; exec "$real" "$@" ;;
        after) "$real" "$@" >/dev/null 2>&1; end "$pid"; exit 137 ;;
    esac
fi

# A session: what it is asked comes by our standard input, one line a question.
exec {back}>&1
coproc real { exec "$real" "$@" >&"$back"; }
exec {ask}>&"${real[1]}"
exec {real[1]}>&-
while IFS= read -r line; do
    verdict=go
    # What cannot be executed only marks the end of an answer.
    [[ $line == "tell "* ]] || enter "$line"
    read -r what pid <<<"$verdict"
    case $what in
        go) printf '%s\n' "$line" >&"$ask" ;;
        before) end "$pid"; kill -KILL "$real_PID"; exit 137 ;;
        behind) end "$pid"; printf '%s\n' "$line" >&"$ask" ;;
        after)
            # Berth is frozen, so that it cannot act on an answer that it must not learn.
            kill -STOP "$pid"
            printf '%s\n' "$line" >&"$ask"
            sleep 1.5
            end "$pid"
            ;;
    esac
done
exec {ask}>&-
wait "$real_PID"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_called_by_the_words_of_its_command() {
        let rows = [
            ("rbd --id a -m 127.0.0.1:1 --keyfile /dev/shm/x create --size 5B pool/image", "rbd create"),
            ("rbd trash mv pool/image", "rbd trash mv"),
            ("rbd --conf /dev/null image-meta set pool/image berth.owner {}", "rbd image-meta set"),
            ("ceph --format json fs subvolume create cephfs berth-1 1", "ceph fs subvolume create"),
            ("ceph fs subvolume authorize cephfs berth-1 user", "ceph fs subvolume authorize"),
            ("ceph fs subvolume metadata set cephfs berth-1 k v", "ceph fs subvolume metadata set"),
            ("ceph fs ls", "ceph fs ls"),
            ("rbd import --no-progress - e2e/berth-1", "rbd import"),
            ("ceph auth get-key client.a", "ceph auth get-key"),
            ("ceph --version", "ceph "),
        ];
        for (line, verb) in rows {
            assert_eq!(Step::read(line).verb, verb, "{line}");
        }
        for (line, changes) in [
            ("rbd import - p/i", true),
            ("rbd trash ls p", false),
            ("rbd trash rm p/i", true),
            ("ceph fs subvolume metadata ls cephfs i", false),
            ("ceph fs subvolume evict cephfs i u", true),
            ("ceph auth get-key client.a", false),
            ("rados --no-mon-config -p pool listomapvals rbd_trash", false),
        ] {
            assert_eq!(Step::read(line).changes(), changes, "{line}");
        }
    }
}
