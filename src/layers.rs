//! The arrows between the modules, held by a test that reads the sources: which module may use which, and which few files
//! may touch the machine.
//!
//! [`RULES`] is the list; each rule says why. A new arrow needs a decision record in `docs/decisions/`. The reading is by
//! tokens, not by a compiler: it sees every path that is written out, in `use` trees too, outside of comments, strings
//! and test code.

mod bounds;
mod cycles;
mod dependencies;
mod picture;
mod source;

use std::{collections::BTreeSet, fs, path::Path};

use source::{paths, sources, test_modules, tokens, without_tests};

/// One rule: code in the files that `at` covers must not use what `never` names, except in `except`.
struct Rule {
    /// Beginnings of paths of files below `src`; empty for every file.
    at: &'static [&'static str],
    /// Files or directories where it is allowed, each for its own reason.
    except: &'static [&'static str],
    /// Paths of code. They cover what lies below them.
    never: &'static [&'static str],
    why: &'static str,
}

const KUBERNETES: &[&str] = &["kube", "k8s_openapi"];
const WIRE: &[&str] = &["tonic", "prost", "axum", "hyper"];
const NAMED_BACKENDS: &[&str] = &[
    "crate::backend::nfs",
    "crate::backend::rbd",
    "crate::backend::cephfs",
    "crate::backend::ceph",
    "crate::backend::memory",
];

const RULES: &[Rule] = &[
    Rule {
        at: &["volume"],
        except: &[],
        never: &["tokio", "nix", "rustix", "tracing", "std::fs", "std::io", "std::net", "std::thread"],
        why: "`volume` is pure values: what it says must hold without a machine",
    },
    Rule {
        at: &["volume"],
        except: &[],
        never: &["crate::backend", "crate::provisioner", "crate::csi", "crate::system", "crate::observe"],
        why: "`volume` holds the nouns that everything else is built on; it builds on nothing of ours",
    },
    Rule {
        at: &["system"],
        except: &[],
        never: &["crate::volume", "crate::backend", "crate::provisioner", "crate::csi", "crate::observe"],
        why: "`system` is effects on the machine; it has never heard of volumes",
    },
    Rule {
        at: &["backend"],
        except: &[],
        never: &["crate::provisioner", "crate::csi", "crate::observe"],
        why: "a backend is called; it knows none of its callers, so that both front doors can share it",
    },
    Rule {
        at: &["provisioner"],
        except: &[],
        never: &["crate::csi", "crate::system"],
        why: "the Kubernetes loop reaches storage only through a `Backend`, and gets ready values instead of flags",
    },
    Rule {
        at: &["csi"],
        except: &[],
        never: &["crate::provisioner"],
        why: "the two front doors do not know each other",
    },
    Rule {
        at: &["observe"],
        except: &[],
        never: &["crate::provisioner", "crate::csi", "crate::system"],
        why: "everything records into `observe`; it decides nothing for anybody",
    },
    Rule {
        at: &["provisioner", "csi", "observe"],
        except: &[],
        never: NAMED_BACKENDS,
        why: "only `main` and `config` know which backends there are; everybody else has the trait",
    },
    Rule {
        at: &["volume", "system", "backend", "csi", "observe", "config"],
        except: &[],
        never: KUBERNETES,
        why: "Kubernetes objects are known to the provisioner alone",
    },
    Rule {
        at: &["volume", "system", "backend", "provisioner", "config"],
        except: &[],
        never: WIRE,
        why: "what is served over a socket belongs to `csi` and `observe`",
    },
    Rule {
        at: &[],
        except: &["config", "main.rs", "roles"],
        never: &["crate::config"],
        why: "nothing looks at a flag again: `main` hands out ready values",
    },
    Rule {
        at: &[],
        except: &["system"],
        never: &["nix", "rustix"],
        why: "system calls are made only in `system`, where they are confined and tested",
    },
    Rule {
        at: &[],
        except: &["system/mount"],
        never: &["nix::mount", "rustix::mount"],
        why: "mounts are made and unmade in one room, beneath the directory of kubelet and by the table of mounts",
    },
    Rule {
        at: &["provisioner", "backend/nfs", "backend/rbd", "backend/cephfs", "backend/ceph"],
        // What nodes are told to mount.
        except: &["backend/nfs/connect"],
        never: &["crate::system::mount"],
        why: "the controller mounts nothing: exports are mounted before it starts, and volumes by nodes",
    },
    Rule {
        at: &["csi"],
        except: &[],
        never: &["crate::backend::Backend", "crate::backend::Janitor", "crate::backend::StorageSystem"],
        why: "the node process cannot name what creates or removes a volume",
    },
    Rule {
        at: &[],
        except: &["system/command"],
        never: &["std::process::Command", "tokio::process"],
        why: "one file starts programs: with a deadline, without a shell, and with secrets kept out of the log",
    },
    Rule {
        at: &[],
        // `main` reads the host name, its role kubeconfig and writes --listen-file; `process` reads /proc/self.
        except: &["system", "main.rs", "roles/controller.rs", "observe/process.rs"],
        never: &["std::fs", "tokio::fs"],
        why: "a path under an export is touched only through `system::root`, beneath a handle and never through a link",
    },
    Rule {
        at: &[],
        except: &["main.rs"],
        never: &["std::env", "std::process::exit", "std::process::abort"],
        why: "the environment is read and the process is ended only by `main`",
    },
];

/// What is wrong with this file, one line each.
fn violations(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!(
            "{file} does not begin with //!: say what it is for and what it deliberately does not do"
        ));
    }
    if is_test_file(file) {
        return found;
    }
    let module = module_of(file);
    let paths = paths(&without_tests(&tokens(text)), &module);
    for rule in RULES {
        let covers = |places: &[&str]| places.iter().any(|place| lies_at(file, place));
        if !(rule.at.is_empty() || covers(rule.at)) || covers(rule.except) {
            continue;
        }
        for never in rule.never {
            if let Some(path) = paths.iter().find(|path| begins_with(path, never)) {
                found.push(format!("{file} uses {path}: {}", rule.why));
            }
        }
    }
    found
}

/// `nfs.rs` and what lies in `nfs/` are both at `nfs`.
fn lies_at(file: &str, place: &str) -> bool {
    file.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

fn begins_with(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_test_file(file: &str) -> bool {
    matches!(file, "layers.rs" | "documents.rs")
        || file.starts_with("layers/")
        || file.starts_with("documents/")
        || file.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "conformance" | "conformance.rs"))
}

/// The module path of a file: `config/export.rs` is `config::export`, `config.rs` is `config`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let mut parts: Vec<String> = path.split('/').map(String::from).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Every file below `src` by its name there, with its text.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources were not found in {}", root.display());
    let name = |file: &Path| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|file| (name(file), fs::read_to_string(file).unwrap())).collect()
}

/// Those that are part of the product.
fn product_files() -> Vec<(String, String)> {
    let files = files();
    let tests: BTreeSet<Vec<String>> = files
        .iter()
        .flat_map(|(name, text)| {
            let module = module_of(name);
            test_modules(&tokens(text)).into_iter().map(move |child| [module.clone(), vec![child]].concat())
        })
        .collect();
    let is_test = |name: &str| {
        let module = module_of(name);
        is_test_file(name) || (1..=module.len()).any(|length| tests.contains(&module[..length]))
    };
    files.into_iter().filter(|(name, _)| !is_test(name)).collect()
}

#[test]
fn every_module_uses_only_what_it_may() {
    let found: Vec<String> = files().iter().flat_map(|(name, text)| violations(name, text)).collect();
    assert!(found.is_empty(), "the layers of docs/architecture.md are broken:\n{}", found.join("\n"));
}

/// A file that is used by what it uses cannot be understood, tested or moved by itself.
#[test]
fn no_files_use_each_other_in_a_circle() {
    let uses = cycles::uses(&product_files());
    let found: Vec<String> =
        cycles::circles(&uses).iter().map(|circle| cycles::told(circle, &uses)).collect();
    assert!(
        found.is_empty(),
        "put what both sides need into a file of its own, which uses neither:\n{}",
        found.join("\n")
    );
}

/// A file or function that does not fit into one head has a seam that has no name yet.
#[test]
fn no_file_or_function_is_too_long_to_be_read_at_once() {
    let found: Vec<String> =
        product_files().iter().flat_map(|(name, text)| bounds::excesses(name, text)).collect();
    assert!(found.is_empty(), "cut at a seam that has a name:\n{}", found.join("\n"));
}

#[test]
fn a_forbidden_use_is_found_however_it_is_written() {
    let rows = [
        ("a plain use", "backend/nfs.rs", "use kube::Api;"),
        ("a use of the crate itself", "backend.rs", "use kube;"),
        ("a renamed use", "backend.rs", "use kube::Client as K;"),
        ("a use in a group", "backend.rs", "use {std::sync::Arc, kube::Client};"),
        ("a use in a tree", "volume.rs", "use crate::{volume::Capacity, provisioner::{lease, queue}};"),
        ("a re-export", "system/root.rs", "pub use crate::volume::Location;"),
        ("a path in an expression", "provisioner/reclaim.rs", "fn f() { crate::backend::nfs::Nfs::new(); }"),
        ("a way through super", "provisioner/lease.rs", "use super::super::system::root::Root;"),
        ("a way through super in a file of two", "backend/nfs.rs", "use super::super::observe::Metrics;"),
        ("a file system call", "backend/nfs.rs", "fn f() { std::fs::remove_dir_all(p); }"),
        ("a file system module", "backend/nfs.rs", "use std::{fs, path::Path};"),
        ("the runtime's file system", "provisioner.rs", "use tokio::fs::File;"),
        ("a program that is started", "backend/rbd.rs", "use tokio::process::Command;"),
        ("a program that is started by std", "system/root.rs", "let c = std::process::Command::new(a);"),
        ("an end of the process", "provisioner.rs", "fn f() { std::process::exit(1) }"),
        ("the environment", "config/convert.rs", "use std::env;"),
        ("a flag looked at again", "observe/logs.rs", "use crate::config::Controller;"),
        ("a system call elsewhere", "backend/nfs.rs", "use nix::sys::stat;"),
        ("a mount", "system/root.rs", "nix::mount::umount(p);"),
        ("code after tests", "backend.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse kube::Api;"),
    ];
    for (row, file, code) in rows {
        let found = violations(file, &format!("//! A file.\n{code}\n"));
        assert_eq!(found.len(), 1, "{row}: {found:?}");
    }
}

#[test]
fn what_is_allowed_is_left_alone() {
    let rows = [
        ("a comment", "backend.rs", "// use kube::Api;\n/* kube::Api /* nested */ kube::x */"),
        ("a string", "backend.rs", "const A: &str = \"kube::Api\"; const B: &str = r#\"\"kube::Api\"#;"),
        ("a character and a lifetime", "backend.rs", "fn f<'a>(x: &'a str) -> char { '\"' }"),
        (
            "tests may name a backend",
            "provisioner.rs",
            "#[cfg(test)]\nmod tests { use crate::backend::memory; }",
        ),
        ("a file of tests", "provisioner/tests.rs", "use crate::backend::memory;"),
        ("tests of a module", "provisioner/tests/plan.rs", "use crate::backend::memory;"),
        ("the trait", "provisioner.rs", "use crate::backend::{Backend, Error};"),
        ("a similar name", "backend.rs", "use kubelet::x; use crate::configuration::y;"),
        ("system calls in system", "system/root.rs", "use nix::fcntl::openat2;"),
        ("a macro that is no module", "observe.rs", "const V: &str = env!(\"A\");"),
        (
            "main is main",
            "main.rs",
            "use std::{env, process::exit}; use berth::config; use berth::backend::nfs::Nfs;",
        ),
    ];
    for (row, file, code) in rows {
        let found = violations(file, &format!("//! A file.\n{code}\n"));
        assert_eq!(found, Vec::<String>::new(), "{row}");
    }
}

#[test]
fn a_file_without_a_word_about_itself_is_found() {
    assert_eq!(violations("backend/new.rs", "use std::sync::Arc;\n").len(), 1);
}

/// A module lies in `foo.rs`, and what is within it in `foo/`: editors show the name, and there is one place to look.
#[test]
fn no_module_lies_in_a_file_called_mod() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["src", "e2e/apiserver/src", "e2e/scenarios/src"] {
        let mut files = Vec::new();
        sources(&root.join(directory), &mut files);
        let found = files.iter().find(|file| file.ends_with("mod.rs"));
        assert!(found.is_none(), "{}: call it after its directory", found.unwrap().display());
    }
}
