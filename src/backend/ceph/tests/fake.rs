//! Stands in for `rbd`, `ceph` and `rados` in tests: [`Fake`], a list of calls that are expected and how each is answered.
//!
//! `tool.sh` plays all of them, also a `ceph` that stays. It takes the first expectation that fits its arguments and was not
//! yet used, and answers as recorded. What it sees that must not be (the key in an argument, a variable of the environment,
//! a call that nobody expected) fails the test when the [`Fake`] is dropped.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::backend::ceph::{Ceph, Cluster, Credentials, Key, Tool, Tools};

/// The key that must show up nowhere.
pub(crate) const KEY: &str = "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==";
/// Who every fake cluster is, in the recorded replies too.
pub(crate) const FSID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// The tools of one test. `ceph fsid` is always answered; everything else is to be expected.
#[derive(Debug)]
pub(crate) struct Fake {
    directory: tempfile::TempDir,
    cluster: Cluster,
    orders: AtomicUsize,
}

/// How a call is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Exit code, standard output, standard error.
    Text(i32, String, String),
    /// Never.
    Hangs,
    /// By a death from a signal.
    Crashes,
    /// After [`Fake::release`], with success and no output.
    Waits,
}

impl Answer {
    /// Success with this output.
    pub(crate) fn ok(stdout: impl Into<String>) -> Self {
        Self::Text(0, stdout.into(), String::new())
    }

    /// Failure with this exit code and error text.
    pub(crate) fn fails(code: i32, stderr: impl Into<String>) -> Self {
        Self::Text(code, String::new(), stderr.into())
    }

    /// As a newer Ceph than ours answers, by its documentation or its source: the case `replies/documented/<name>.txt`.
    pub(crate) fn documented(name: &str) -> Self {
        let path = replies().join("documented").join(format!("{name}.txt"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // Nobody shall take it for what was seen.
        let Some((head, _)) = text.split_once('\n') else { panic!("{name} is empty") };
        assert!(head.starts_with("# Not recorded by us: "), "{name} does not say where it comes from");
        let case = Recorded::read(&path);
        Self::Text(case.code, case.stdout, case.stderr)
    }

    /// As a real cluster answered: the case `replies/<name>.txt`.
    pub(crate) fn recorded(name: &str) -> Self {
        let case = Recorded::read(&replies().join(format!("{name}.txt")));
        Self::Text(case.code, case.stdout, case.stderr)
    }
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// Which program.
    pub(crate) tool: Tool,
    /// The arguments of the command alone, without cluster, user, key file and timeouts.
    pub(crate) args: Vec<String>,
    /// What it read from its standard input.
    pub(crate) stdin: Vec<u8>,
}

impl Fake {
    /// Tools that expect nothing yet; a cluster called `fake`.
    pub(crate) fn new() -> Self {
        Self::with(Tools::default())
    }

    /// The same with other limits. The programs in `tools` are replaced.
    pub(crate) fn with(mut tools: Tools) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["once", "always", "calls"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        fs::write(path.join("key"), KEY).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/ceph/tests/tool.sh");
        // A link and not a copy: a file that was just written cannot be executed while another thread starts a program.
        let program = |name: &str| {
            symlink(&script, path.join(name)).unwrap();
            path.join(name).to_str().unwrap().to_owned()
        };
        (tools.rbd, tools.ceph, tools.rados) = (program("rbd"), program("ceph"), program("rados"));
        // Far enough that a busy machine does not meet it.
        if tools.deadline == Tools::default().deadline {
            tools.deadline = Duration::from_mins(5);
        }
        // What does not answer now may answer the next moment, unless the test is about that.
        if tools.pause == Tools::default().pause {
            tools.pause = Duration::ZERO;
        }
        let cluster = Cluster::new("fake", "127.0.0.1:6789".parse().unwrap(), tools).unwrap();
        let fake = Self { directory, cluster, orders: AtomicUsize::new(0) };
        fake.always(Tool::Ceph, &["fsid"], Answer::recorded("ceph-fsid"));
        fake
    }

    /// The cluster that is reached through these tools.
    pub(crate) fn cluster(&self) -> Cluster {
        self.cluster.clone()
    }

    /// The credentials that the tools expect: user `admin` with [`KEY`].
    pub(crate) fn credentials() -> Credentials {
        Credentials::new("admin", Key::parse(KEY.as_bytes()).unwrap()).unwrap()
    }

    /// A handle on the cluster.
    pub(crate) fn ceph(&self) -> Ceph {
        self.cluster.with(Self::credentials())
    }

    /// The tools' directory; links of other clusters may point into it.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Expects a call once; a test that ends without it fails. Each argument is matched by a pattern of the shell (`*` for
    /// anything, `?`, `[…]`; `\` before one that is meant). Expectations that fit the same call are used in order.
    pub(crate) fn expect(&self, tool: Tool, args: &[&str], answer: Answer) -> &Self {
        self.order("once", tool, args, answer)
    }

    /// Answers such calls any number of times, also none, where nothing that [`expect`](Fake::expect) named fits.
    pub(crate) fn always(&self, tool: Tool, args: &[&str], answer: Answer) -> &Self {
        self.order("always", tool, args, answer)
    }

    /// Lets calls with [`Answer::Waits`] go on.
    pub(crate) fn release(&self) {
        fs::write(self.directory.path().join("released"), "").unwrap();
    }

    fn order(&self, how: &str, tool: Tool, args: &[&str], answer: Answer) -> &Self {
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        let order = self.directory.path().join(how).join(format!("{number:04}"));
        // Complete when it gets its name.
        let prepared = self.directory.path().join(format!("order-{number}"));
        fs::create_dir(&prepared).unwrap();
        let (mode, code, out, err) = match answer {
            Answer::Text(code, out, err) => ("text", code, out, err),
            Answer::Hangs => ("hang", 0, String::new(), String::new()),
            Answer::Crashes => ("crash", 0, String::new(), String::new()),
            Answer::Waits => ("wait", 0, String::new(), String::new()),
        };
        let pattern = args.iter().fold(format!("{tool} {} ", args.len()), |all, arg| all + "\u{1f}" + arg);
        for (name, text) in [
            ("pattern", format!("{pattern}\n")),
            ("mode", format!("{mode}\n")),
            ("code", code.to_string()),
            ("out", out),
            ("err", err),
        ] {
            fs::write(prepared.join(name), text).unwrap();
        }
        fs::rename(prepared, order).unwrap();
        self
    }

    /// The calls made so far, in their order.
    pub(crate) fn calls(&self) -> Vec<Made> {
        let calls = self.directory.path().join("calls");
        let mut made = Vec::new();
        for number in 1.. {
            let call = calls.join(number.to_string());
            if !call.join("complete").exists() {
                break;
            }
            let args = fs::read_to_string(call.join("args")).unwrap();
            let mut args: Vec<String> = args.split('\u{1f}').map(str::to_owned).collect();
            args.pop();
            made.push(Made {
                tool: match fs::read_to_string(call.join("tool")).unwrap().as_str() {
                    "rbd" => Tool::Rbd,
                    "rados" => Tool::Rados,
                    _ => Tool::Ceph,
                },
                args,
                stdin: fs::read(call.join("stdin")).unwrap_or_default(),
            });
        }
        made
    }

    /// The calls as lines: `rbd create …`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.calls().iter().map(|made| format!("{} {}", made.tool, made.args.join(" "))).collect()
    }

    /// What went wrong so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = fs::read_to_string(self.directory.path().join("violations"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        for order in fs::read_dir(self.directory.path().join("once")).unwrap() {
            let order = order.unwrap().path();
            if !order.join("taken").exists() {
                let pattern = fs::read_to_string(order.join("pattern")).unwrap();
                complaints.push(format!("was never called: {}", pattern.trim().replace('\u{1f}', " ")));
            }
        }
        complaints
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let complaints = self.complaints();
        if !std::thread::panicking() {
            assert!(
                complaints.is_empty(),
                "{}\ncalls made:\n{}",
                complaints.join("\n"),
                self.lines().join("\n")
            );
        } else if !complaints.is_empty() {
            eprintln!("{}", complaints.join("\n"));
        }
    }
}

/// A recorded reply of a real cluster.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// The name of the case.
    pub(crate) name: String,
    /// Which tool it was.
    pub(crate) tool: Tool,
    /// The exit code.
    pub(crate) code: i32,
    /// The standard output.
    pub(crate) stdout: String,
    /// The standard error.
    pub(crate) stderr: String,
}

impl Recorded {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parts = || {
            let text = text.trim_start_matches(|c| c != '$');
            let (call, rest) = text.strip_prefix("$ ")?.split_once("\nexit ")?;
            let (code, rest) = rest.split_once("\n-- stdout\n")?;
            let (stdout, stderr) = rest.split_once("-- stderr\n")?;
            let tool = match call.split(' ').next()? {
                "rbd" => Tool::Rbd,
                "ceph" => Tool::Ceph,
                "rados" => Tool::Rados,
                _ => return None,
            };
            Some(Self {
                name: path.file_stem()?.to_str()?.to_owned(),
                tool,
                code: code.parse().ok()?,
                stdout: stdout.to_owned(),
                stderr: stderr.to_owned(),
            })
        };
        parts().unwrap_or_else(|| panic!("{} is no recorded reply; record it anew", path.display()))
    }

    /// Every case that was recorded.
    pub(crate) fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(replies()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.is_file());
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

fn replies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/ceph/replies")
}
