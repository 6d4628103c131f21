//! `hack/demo`: berth at work, told as a short story with timings.
//!
//! The embedded API server runs in this process, the unmodified `berth controller` beside it. Every step is checked: if
//! one does not happen, the story ends with the reason and the end of berth's log, and the exit status is not zero.
//! With `--ceph` it is another story, on a Ceph cluster: `ceph.rs`.

mod ceph;
mod story;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use berth_e2e::{
    berth::{self, Berth, Export, Setup},
    control_plane::{
        ControlPlane, User, audit,
        manifests::{self, Manifest},
    },
    process::ScratchDir,
};
use clap::Parser;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::Value;
use story::{Teller, detail};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Generous: on a quiet machine no step takes a second.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where berth believes the export is. Nothing ever connects to it.
const SERVER: &str = "nfs.example.com";
const EXPORTED: &str = "/export";

const FILE: &str = "greeting.txt";
const TEXT: &str = "written by the application";

/// Shows berth at work without a cluster.
#[derive(Debug, Parser)]
#[command(name = "hack/demo")]
struct Arguments {
    /// Use DIR as the export instead of a temporary directory; what it holds in the end stays
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Stay up after the story, for kubectl, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Show an image and a subvolume on a throw-away Ceph cluster, from Debian's packages
    #[arg(long, conflicts_with_all = ["export", "keep"])]
    ceph: bool,
    /// What a relative DIR is relative to
    #[arg(long, hide = true, env = "BERTH_DEMO_FROM", value_name = "DIR", default_value = ".")]
    from: PathBuf,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut interrupts = Interrupts::listen()?;
    if arguments.ceph {
        let told = tokio::select! {
            told = on_ceph() => told,
            code = interrupts.next() => return Ok(ExitCode::from(code)),
        };
        return Ok(verdict(told));
    }
    // Whichever way this goes, dropping the demo ends its processes and removes its temporary directory.
    let told = tokio::select! {
        told = tell(&arguments) => told,
        code = interrupts.next() => return Ok(ExitCode::from(code)),
    };
    let ended = match told {
        Ok(demo) => demo.end(&arguments, &mut interrupts).await,
        Err(error) => Err(error),
    };
    Ok(verdict(ended))
}

async fn on_ceph() -> Result<()> {
    ceph::tell(&berth::program().await?).await?.end().await
}

fn verdict(told: Result<()>) -> ExitCode {
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The signals that ask for an end.
struct Interrupts([(Signal, u8); 3]);

impl Interrupts {
    fn listen() -> Result<Self> {
        let listen = |kind, code: u8| signal(kind).map(|signal| (signal, code)).context("listen for signals");
        Ok(Self([
            listen(SignalKind::hangup(), 129)?,
            listen(SignalKind::interrupt(), 130)?,
            listen(SignalKind::terminate(), 143)?,
        ]))
    }

    /// Waits for one, and gives the exit status that tells of it.
    async fn next(&mut self) -> u8 {
        let arrivals = self.0.iter_mut().map(|(signal, code)| {
            Box::pin(async move {
                signal.recv().await;
                *code
            })
        });
        futures::future::select_all(arrivals).await.0
    }
}

async fn tell(arguments: &Arguments) -> Result<Demo> {
    let program = berth::program().await?;
    let demo = Demo::start(arguments, &program).await?;
    let told = demo.story().await;
    // The message about an end that nobody asked for has it already.
    if told.is_err() && demo.berth.runs() {
        eprintln!("\nThe end of berth's log:\n{}", demo.berth.log_tail(40));
    }
    told.map(|()| demo)
}

/// All that runs; dropped, it is gone.
struct Demo {
    teller: Teller,
    examples: Vec<Manifest>,
    export: PathBuf,
    berth: Berth,
    admin: Client,
    plane: ControlPlane,
    scratch: ScratchDir,
}

/// A bound claim.
#[derive(Clone, Debug)]
struct Bound {
    volume: String,
    /// Below the export.
    directory: String,
    after: Duration,
}

impl Demo {
    async fn start(arguments: &Arguments, program: &Path) -> Result<Self> {
        let examples = manifests::examples()?;
        let provisioner = examples
            .iter()
            .find(|example| example.kind() == "StorageClass")
            .and_then(|class| class.object().get("provisioner")?.as_str())
            .context("deploy/examples/ holds no StorageClass with a provisioner")?
            .to_owned();
        let scratch = ScratchDir::new("berth-demo-")?;
        let export = match &arguments.export {
            Some(dir) => arguments.from.join(dir),
            None => scratch.path().join("export"),
        };
        fs::create_dir_all(&export)
            .and_then(|()| fs::read_dir(&export).map(drop))
            .with_context(|| format!("{} cannot be used as the export", export.display()))?;
        println!(
            "Berth provisions for StorageClasses of {provisioner}. Its export is here:\n  {}\n",
            export.display()
        );

        let teller = Teller::new();
        let plane = ControlPlane::embedded().await?;
        let admin = plane.client(User::Admin).await?;
        let setup = Setup {
            user: User::Berth,
            access: plane.access(User::Berth)?,
            provisioner,
            export: Some(Export {
                server: SERVER.to_owned(),
                path: EXPORTED.to_owned(),
                root: export.clone(),
            }),
            leader_election: true,
            log: None,
            flags: Vec::new(),
            environment: Vec::new(),
        };
        let berth = setup.env("RUST_LOG", "info").start(program, "berth", scratch.path())?;
        Ok(Self { teller, examples, export, berth, admin, plane, scratch })
    }

    fn say(&self, text: &str) {
        self.teller.say(text);
    }

    /// Waits, if it is to be kept, and ends berth as a deployment would.
    async fn end(self, arguments: &Arguments, interrupts: &mut Interrupts) -> Result<()> {
        if arguments.keep {
            self.invite()?;
            loop {
                tokio::select! {
                    _ = interrupts.next() => break,
                    () = tokio::time::sleep(Duration::from_millis(500)) => self.berth.check_alive()?,
                }
            }
            println!();
        }
        let status = self.berth.terminate().await?;
        ensure!(
            status.success(),
            "berth was told to stop and ended with {status}:\n{}",
            self.berth.log_tail(40)
        );
        self.say("told to stop, berth gave back its lock and ended");
        if arguments.export.is_some() {
            println!("\nWhat the export holds stays: {}", self.export.display());
        }
        Ok(())
    }

    async fn story(&self) -> Result<()> {
        self.say(&format!("the embedded API server listens at {}", self.plane.access(User::Berth)?.url));
        self.berth.answers("/readyz").await?;
        self.say(&format!("berth controller (process {}) runs, leads and is ready", self.berth.pid()));

        let applied = Instant::now();
        for example in &self.examples {
            example.apply(&self.admin).await?;
        }
        self.say("applied deploy/examples/:");
        for example in &self.examples {
            detail(&describe(example));
        }
        let claims = expected_claims(&self.examples);
        let bound = self.all_bound(&claims, applied).await?;
        self.say(&format!("all {} claims are bound:", bound.len()));
        self.show(&bound)?;

        let annotated = self
            .examples
            .iter()
            .find(|example| beta_class(example).is_some())
            .context("deploy/examples/ holds no claim with the beta annotation")?;
        let claim = (namespace(annotated.object()), annotated.name().to_owned());
        let volume = bound.get(&claim).context("the claim with the beta annotation is not bound")?;
        let file = self.export.join(&volume.directory).join(FILE);
        fs::write(&file, TEXT).with_context(|| format!("write {}", file.display()))?;
        self.say(&format!("wrote a file into the volume of {}:", claim.1));
        detail(&format!("{}/{FILE}", volume.directory));

        let deleted = Instant::now();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.admin.clone(), &claim.0);
        api.delete(&claim.1, &DeleteParams::default()).await.context("delete the claim")?;
        self.say(&format!("deleted the claim {}", claim.1));
        self.archived(&claim, volume, deleted).await?;
        for (other, volume) in bound.iter().filter(|(other, _)| **other != claim) {
            let directory = self.export.join(&volume.directory);
            ensure!(directory.is_dir(), "the directory of {} is gone: {}", other.1, directory.display());
        }
        self.say(&format!("the {} other volumes are as they were", bound.len() - 1));

        let counts = audit::count(&self.plane.requests(User::Berth)?);
        let count = |kind: &str| counts.get(kind).copied().unwrap_or_default();
        self.say(&format!(
            "in all this berth created {} PVs and deleted {}, with {} Events",
            count("create persistentvolumes"),
            count("delete persistentvolumes"),
            count("create events"),
        ));
        Ok(())
    }

    /// Waits until every one of `claims` is bound and has a directory.
    async fn all_bound(
        &self,
        claims: &[(String, String)],
        applied: Instant,
    ) -> Result<BTreeMap<(String, String), Bound>> {
        ensure!(!claims.is_empty(), "deploy/examples/ holds no claims");
        let mut bound: BTreeMap<(String, String), Bound> = BTreeMap::new();
        let all_claims: Api<PersistentVolumeClaim> = Api::all(self.admin.clone());
        let volumes: Api<PersistentVolume> = Api::all(self.admin.clone());
        self.until("all claims to be bound", async || {
            for claim in all_claims.list(&ListParams::default()).await?.items {
                let key = (claim.namespace().unwrap_or_default(), claim.name_any());
                let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                if bound.contains_key(&key) || phase != Some("Bound") {
                    continue;
                }
                let volume = claim
                    .spec
                    .and_then(|spec| spec.volume_name)
                    .with_context(|| format!("claim {} is bound to nothing", key.1))?;
                let object = volumes.get(&volume).await.with_context(|| format!("get PV {volume}"))?;
                let path = object
                    .spec
                    .and_then(|spec| Some(spec.nfs?.path))
                    .with_context(|| format!("PV {volume} is no NFS volume"))?;
                let directory = path
                    .strip_prefix(EXPORTED)
                    .and_then(|path| path.strip_prefix('/'))
                    .with_context(|| format!("PV {volume} has the path {path}, not one below {EXPORTED}"))?
                    .to_owned();
                bound.insert(key, Bound { volume, directory, after: applied.elapsed() });
            }
            let missing: Vec<&str> = claims
                .iter()
                .filter(|claim| !bound.contains_key(claim))
                .map(|(_, name)| name.as_str())
                .collect();
            ensure!(missing.is_empty(), "not bound: {}", missing.join(", "));
            Ok(())
        })
        .await?;
        Ok(bound)
    }

    fn show(&self, bound: &BTreeMap<(String, String), Bound>) -> Result<()> {
        let width = bound.keys().map(|(_, name)| name.len()).max().unwrap_or_default();
        detail(&format!("{:width$}  after    PV, and directory below the export", "claim"));
        for ((_, name), bound) in bound {
            let directory = self.export.join(&bound.directory);
            ensure!(directory.is_dir(), "PV {} has no directory {}", bound.volume, directory.display());
            detail(&format!("{name:width$}  {:.2} s   {}", bound.after.as_secs_f64(), bound.volume));
            detail(&format!("{:width$}           {}/", "", bound.directory));
        }
        Ok(())
    }

    /// Waits until the PV is gone and shows what became of its directory.
    async fn archived(&self, claim: &(String, String), volume: &Bound, deleted: Instant) -> Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.admin.clone());
        self.until(&format!("PV {} to be gone", volume.volume), async || {
            let left = volumes.get_opt(&volume.volume).await?;
            let phase = left.and_then(|left| left.status?.phase);
            ensure!(phase.is_none(), "it is still there, {}", phase.unwrap_or_default());
            Ok(())
        })
        .await?;
        let took = deleted.elapsed().as_secs_f64();
        let directory = self.export.join(&volume.directory);
        ensure!(!directory.exists(), "claim {} is deleted, {} is still there", claim.1, directory.display());
        let archive = format!("archived-{}", volume.directory);
        let file = self.export.join(&archive).join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        ensure!(text == TEXT, "{} holds {text:?}, not what was written", file.display());
        self.say(&format!(
            "its PV is gone (after {took:.2} s), and its directory is archived, as its class asks:"
        ));
        detail(&format!("{archive}/"));
        detail(&format!("    {FILE}: \"{text}\""));
        Ok(())
    }

    /// Asks again and again; gives up when time is over or berth has ended.
    async fn until(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = ask().await {
            self.berth.check_alive().with_context(|| format!("while waiting for {what}"))?;
            if Instant::now() >= deadline {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Says how to look around.
    fn invite(&self) -> Result<()> {
        let path = self.scratch.path().join("kubeconfig");
        let ControlPlane::Embedded(plane) = &self.plane else {
            bail!("only the embedded API server is shown here");
        };
        fs::write(&path, plane.server().kubeconfig(User::Admin.name())).context("write the kubeconfig")?;
        println!("\nAll of it stays up until Ctrl-C. In another terminal:\n");
        println!("    export KUBECONFIG={}", path.display());
        println!("    kubectl get storageclasses,persistentvolumeclaims,persistentvolumes");
        println!("    ls {}", self.export.display());
        Ok(())
    }
}

fn namespace(object: &Value) -> String {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned()
}

/// The class that a claim names by the annotation of old manifests.
fn beta_class(example: &Manifest) -> Option<&str> {
    let annotations = example.object().pointer("/metadata/annotations")?;
    annotations.get("volume.beta.kubernetes.io/storage-class")?.as_str()
}

fn replicas(set: &Value) -> u64 {
    set.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1)
}

fn templates(set: &Value) -> impl Iterator<Item = &str> {
    set.pointer("/spec/volumeClaimTemplates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|template| template.pointer("/metadata/name")?.as_str())
}

/// Namespace and name of every claim that the examples lead to.
fn expected_claims(examples: &[Manifest]) -> Vec<(String, String)> {
    let mut claims = Vec::new();
    for example in examples {
        let object = example.object();
        match example.kind() {
            "PersistentVolumeClaim" => claims.push((namespace(object), example.name().to_owned())),
            "StatefulSet" => claims.extend(templates(object).flat_map(|template| {
                (0..replicas(object))
                    .map(move |number| (namespace(object), format!("{template}-{}-{number}", example.name())))
            })),
            _ => {}
        }
    }
    claims
}

fn describe(example: &Manifest) -> String {
    let object = example.object();
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = example.name();
    match example.kind() {
        "StorageClass" => {
            let parameters = object.get("parameters").map(Value::to_string).unwrap_or_default();
            format!("StorageClass {name} {parameters}")
        }
        "PersistentVolumeClaim" => match beta_class(example) {
            Some(class) => format!("claim {name}, class {class} by the beta annotation"),
            None => format!("claim {name}, class {}", text("/spec/storageClassName")),
        },
        "StatefulSet" => {
            format!("StatefulSet {name} with {} replicas and a claim template", replicas(object))
        }
        kind => format!("{kind} {name}"),
    }
}
