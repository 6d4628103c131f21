//! What each program is asked to do, and who answers it.

use std::{collections::BTreeMap, fs};

use serde_json::json;

use super::{Answer, Played, Silent, State, ok, recorded};
use crate::backend::ceph::fake::KEY;

/// The arguments of one call, read.
pub(super) struct Call<'a> {
    pub(super) words: Vec<&'a str>,
    pub(super) options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Call<'a> {
    fn read(args: &'a [String]) -> Self {
        let (mut words, mut options) = (Vec::new(), BTreeMap::new());
        let mut rest = args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg {
                "--no-progress" | "--all" | "--allow-shrink" => {
                    options.insert(arg, "");
                }
                option if option.starts_with('-') && option != "-" => {
                    options.insert(option, rest.next().unwrap_or_default());
                }
                word => words.push(word),
            }
        }
        Self { words, options }
    }

    /// Where `rados` looks.
    pub(super) fn space(&self) -> String {
        let pool = self.options["-p"];
        self.options.get("-N").map_or_else(|| pool.to_owned(), |namespace| format!("{pool}/{namespace}"))
    }
}

impl State {
    pub(super) fn play(&mut self, mut args: Vec<String>, stdin: &[u8]) -> Played {
        let program = args.remove(0);
        let mut key = String::new();
        // What the shim adds to every call.
        while args.first().is_some_and(|arg| {
            arg.starts_with('-') && !(program == "rbd" && arg == "--format") && arg != "-p"
        }) {
            let option = args.remove(0);
            if option == "--no-mon-config" {
                continue;
            }
            let value = args.remove(0);
            if option == "--keyfile" {
                key = fs::read_to_string(&value).unwrap_or_default();
            }
        }
        let shown = args.join(" ");
        if shown.contains(KEY) {
            self.complaints.push(format!("the key is in an argument of {program} {shown}"));
        }
        self.calls.push(format!("{program} {shown}"));
        if self.unreachable {
            return recorded(match program.as_str() {
                "rbd" => "rbd-info-unreachable",
                "rados" => "rados-omap-unreachable",
                _ => "ceph-fsid-unreachable",
            });
        }
        if key != self.key {
            return recorded(match program.as_str() {
                "rbd" => "rbd-info-wrong-key",
                "rados" => "rados-omap-wrong-key",
                _ => "ceph-fsid-wrong-key",
            });
        }
        if self.hold.is_some_and(|hold| shown.starts_with(hold)) {
            self.held.push((program, args, stdin.to_vec()));
            return Err(Silent::Held);
        }
        self.act(&program, &args, stdin)
    }

    /// Does what a call says.
    pub(super) fn act(&mut self, program: &str, args: &[String], stdin: &[u8]) -> Played {
        let call = Call::read(args);
        if let Some((command, answer)) = self.odd
            && call.words.first() == Some(&command)
        {
            return ok(answer);
        }
        match (program, &call.words[..]) {
            ("ceph", ["fsid"]) => ok(format!("\n{}\n", json!({"fsid": self.fsid}))),
            ("ceph", ["osd", "pool", "ls", "detail"]) => self.pools(),
            ("rbd", ["import", "-", spec]) => self.import(spec, &call.options, stdin),
            ("rbd", ["trash", "rm", spec]) => self.purge(spec),
            ("rbd", ["trash", "restore", spec]) => self.restore(spec, call.options["--image"]),
            ("rbd", ["rename", from, to]) => self.rename(from, to),
            ("rbd", ["trash", "mv", spec]) => self.trash(spec, call.options["--expires-at"]),
            ("rbd", ["image-meta", "set", spec, key, value]) => self.set_metadata(spec, key, value),
            ("rbd", ["resize", spec]) => {
                self.resize(spec, call.options["--size"], call.options.contains_key("--allow-shrink"))
            }
            ("rbd", ["rm", spec]) => self.remove(spec, &call.options),
            ("rbd", ["config", "pool", "ls", _]) => {
                let told = call.options["--rbd-move-to-trash-on-remove"];
                let value = if self.keeps_nothing { "false" } else { told };
                ok(json!([{"name": "rbd_move_to_trash_on_remove", "value": value, "source": "config"}])
                    .to_string())
            }
            ("rados", ["listomapvals", object]) => self.dumped(&call, object),
            ("rados", ["setomapval", object, key, value]) => self.set_key(&call.space(), object, key, value),
            ("rados", ["create", "rbd_trash"]) => self.make_trash(&call.space()),
            ("rbd", words) => match self.tell(words) {
                Some(told) => told,
                None => self.unknown(program, args),
            },
            _ => self.unknown(program, args),
        }
    }

    fn pools(&self) -> Played {
        let pools = self.spaces.keys().filter(|space| !space.contains('/'));
        let pool = |name: &String| {
            let flags = if self.full.contains(name) { "hashpspool,full,full_quota" } else { "hashpspool" };
            json!({"pool_name": name, "application_metadata": {"rbd": {}}, "flags_names": flags})
        };
        ok(json!(pools.map(pool).collect::<Vec<_>>()).to_string())
    }

    /// What changes nothing.
    fn tell(&self, words: &[&str]) -> Option<Played> {
        Some(match words {
            ["namespace", "ls", pool] => {
                let prefix = format!("{pool}/");
                let found = self.spaces.keys().filter_map(|space| space.strip_prefix(&prefix));
                let found: Vec<_> = found.map(|namespace| json!({"name": namespace})).collect();
                ok(json!(found).to_string())
            }
            ["ls", space] => match self.space(space) {
                Ok(space) => {
                    let listed =
                        space.images.iter().filter(|(_, image)| !image.unlisted).map(|(name, _)| name);
                    ok(json!(listed.collect::<Vec<_>>()).to_string())
                }
                Err(failure) => recorded(failure),
            },
            _ => return self.tell_of_image(words),
        })
    }

    fn unknown(&mut self, program: &str, args: &[String]) -> Played {
        self.complaints.push(format!("nobody plays {program} {}", args.join(" ")));
        Ok(Answer(22, String::new(), "rbd: unknown command\n".into()))
    }
}
