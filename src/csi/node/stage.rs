//! Staging and unstaging: a volume is connected and mounted once on this node.

use std::{collections::BTreeMap, sync::Arc};

use tonic::Status;

use super::{
    plan::{self, Staging},
    record::{Arguments, StageRecord},
    work::{Answer, Work},
};
use crate::{
    backend::NodeVolume,
    csi::{
        request::{Stage, Unstage},
        status,
    },
    system::{
        command::{self, Command},
        mount::{Filesystem, Mounted, Place},
    },
    volume::Secrets,
};

/// How much of the output of a mount program is kept.
const OUTPUT: usize = 4096;

impl Work {
    pub(super) async fn stage(&self, request: &Stage) -> Result<(), Status> {
        let volume = request.capability.volume(&request.volume, &request.context);
        let place = self.existing(&request.volume, &request.staging).await?;
        self.stage_at(&volume, &place, &Arguments::of(&request.capability), &request.secrets).await
    }

    pub(super) async fn stage_at(
        &self,
        volume: &NodeVolume,
        place: &Arc<Place>,
        arguments: &Arguments,
        secrets: &Secrets,
    ) -> Result<(), Status> {
        let server = self.connector.server(volume).map_err(|error| status::of("stage", &error))?;
        let known = self.known(&volume.id);
        let planned = plan::stage(known.as_ref(), place.path(), place.point(), arguments, &Self::table()?)?;
        if planned == Staging::Done {
            // Where there is no answer it may come back: it is staged.
            if self.state(&volume.id, place).await != Answer::Stale {
                return Ok(());
            }
            tracing::warn!(
                volume = volume.id,
                server,
                "the server does not know the mounted directory any more: mounting it again"
            );
        }
        if let Some(elsewhere) = known.as_ref().filter(|record| record.staging != place.path())
            && let Some(before) = self.place(&volume.id, &elsewhere.staging).await?
        {
            self.erase(&volume.id, &before).await?;
        }
        // Of the record, what pods have stays true.
        let publications = known.map(|record| record.publications).unwrap_or_default();
        let mut record = StageRecord {
            driver: self.driver.clone(),
            volume: volume.id.clone(),
            staging: place.path().to_owned(),
            point: place.point().to_owned(),
            server,
            arguments: arguments.clone(),
            handle: BTreeMap::new(),
            mounted: None,
            publications,
        };
        self.write(&record, place).await?;
        self.clear(&volume.id, place, |_| true).await?;
        match self.connect_and_mount(volume, secrets, &mut record, place).await {
            Ok(mounted) => {
                record.mounted = Some(mounted);
                self.write(&record, place).await
            }
            Err(failed) => {
                // Nothing of it stays, so that what kubelet does next begins from the start.
                let undone = self.clear(&volume.id, place, |_| true).await;
                let disconnected = self.connector.disconnect(&volume.id, &record.handle).await;
                if undone.is_ok() && disconnected.is_ok() && record.publications.is_empty() {
                    self.erase(&volume.id, place).await?;
                }
                Err(failed)
            }
        }
    }

    async fn connect_and_mount(
        &self,
        volume: &NodeVolume,
        secrets: &Secrets,
        record: &mut StageRecord,
        place: &Arc<Place>,
    ) -> Result<Mounted, Status> {
        let about = format!("stage volume {} of {}", volume.id, record.server);
        let connected = self.connector.connect(volume, secrets).await;
        let connected = connected.map_err(|error| status::of(&about, &error))?;
        record.handle = connected.handle;
        self.write(record, place).await?;
        let mut refusals = Vec::new();
        for way in connected.ways {
            let told = way.told();
            match self.mount(&volume.id, place, way).await? {
                Ok(mounted) => {
                    tracing::info!(volume = volume.id, server = record.server, %mounted, "mounted");
                    return Ok(mounted);
                }
                Err(Refusal { unsupported, why }) => {
                    refusals.push(format!("{told}: {why}"));
                    if !unsupported {
                        break;
                    }
                }
            }
        }
        Err(Status::internal(format!("{about}: {}", refusals.join("; "))))
    }

    /// Mounts in one way, and says what the table then shows.
    async fn mount(
        &self,
        volume: &str,
        place: &Arc<Place>,
        way: Filesystem,
    ) -> Result<Result<Mounted, Refusal>, Status> {
        let what = format!("mount on {}", place.path().display());
        let at = Arc::clone(place);
        let prepared = self.on_thread(volume, what.clone(), move || at.prepare_directory()).await?;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err(status::of_mount(&what, &error)),
        };
        let done = match way {
            Filesystem::Program { program, args } => self.run_mount_program(program, args, place).await,
            way @ (Filesystem::Kernel { .. } | Filesystem::Bind { .. }) => {
                let at = Arc::clone(place);
                let mounted = self.on_thread(volume, what.clone(), move || at.mount(&prepared, &way)).await?;
                mounted.map_err(|error| Refusal {
                    unsupported: error.is_unsupported(),
                    why: status::of_mount("mount", &error).message().to_owned(),
                })
            }
        };
        if let Err(refusal) = done {
            return Ok(Err(refusal));
        }
        match Self::table()?.top(place.point()) {
            Some(mount) => Ok(Ok(mount.what.clone())),
            None => Err(Status::internal(format!(
                "{what}: it was mounted, and the table of mounts does not show it"
            ))),
        }
    }

    async fn run_mount_program(
        &self,
        program: String,
        args: Vec<String>,
        place: &Place,
    ) -> Result<(), Refusal> {
        let path = place.path().to_string_lossy().into_owned();
        let args = args.into_iter().map(|arg| if arg == "{}" { path.clone() } else { arg }).collect();
        let name = program.clone();
        let (env, stdin) = (Vec::new(), None);
        let command = Command { program, args, env, stdin, deadline: self.times.call, cap: OUTPUT };
        match command::run(&command).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr.bytes).trim().replace('\n', "; ");
                Err(Refusal { unsupported: false, why: format!("{name} ended with {}: {told}", output.code) })
            }
            Err(failure) => {
                let unsupported = matches!(failure, command::Failure::Missing(_));
                Err(Refusal { unsupported, why: failure.to_string() })
            }
        }
    }

    pub(super) async fn unstage(&self, request: &Unstage) -> Result<(), Status> {
        let Some(place) = self.place(&request.volume, &request.staging).await? else {
            return Ok(());
        };
        let known = self.known(&request.volume).filter(|record| record.staging == request.staging);
        let table = Self::table()?;
        let Some(record) = known else {
            // Its record was lost, or it is unstaged already. Nothing but a driver mounts there.
            return self.clear(&request.volume, &place, |_| true).await;
        };
        if let Some(used) = record.publications.iter().find(|publication| plan::is_live(publication, &table))
        {
            return Err(Status::failed_precondition(format!(
                "volume {} is still published at {}",
                record.volume,
                used.target.display()
            )));
        }
        self.unstage_record(&record, &place).await
    }

    /// Unmounts, disconnects and forgets, in this order: what was not done is done the next time.
    pub(super) async fn unstage_record(
        &self,
        record: &StageRecord,
        place: &Arc<Place>,
    ) -> Result<(), Status> {
        let ours = |what: &Mounted| record.mounted.as_ref().is_none_or(|mounted| mounted == what);
        self.clear(&record.volume, place, ours).await?;
        let disconnected = self.connector.disconnect(&record.volume, &record.handle).await;
        disconnected.map_err(|error| status::of(&format!("unstage volume {}", record.volume), &error))?;
        self.erase(&record.volume, place).await
    }
}

/// Why one way to mount did not work.
struct Refusal {
    /// Another way may.
    unsupported: bool,
    why: String,
}
