//! Publishing and unpublishing: what is staged is bound to the place of a pod.

use std::sync::Arc;

use tonic::Status;

use super::{
    plan::{self, Publishing, Wanted},
    record::{Arguments, Publication},
    work::{Answer, Work},
};
use crate::{
    csi::{
        request::{Publish, Unpublish},
        status,
    },
    system::mount::{Mount, Mounted, Place, Prepared},
};

impl Work {
    pub(super) async fn publish(&self, request: &Publish) -> Result<(), Status> {
        let staging = self.existing(&request.volume, &request.staging).await?;
        let target = self.existing(&request.volume, &request.target).await?;
        let arguments = Arguments::of(&request.capability);
        let wanted = Wanted {
            staging: &request.staging,
            target: &request.target,
            point: target.point(),
            read_only: request.read_only,
            arguments: &arguments,
        };
        let mut planned = plan::publish(self.known(&request.volume).as_ref(), &wanted, &Self::table()?)?;
        if planned != Publishing::Stage {
            match self.state(&request.volume, &staging).await {
                Answer::Alive => {}
                Answer::Stale => planned = Publishing::Stage,
                // What looks at the mount now hangs, and would hold the lock of the volume.
                Answer::None => return Err(self.silent(&request.volume)),
            }
        }
        if planned == Publishing::Stage {
            self.stage_again(request, &staging, &arguments).await?;
            planned = plan::publish(self.known(&request.volume).as_ref(), &wanted, &Self::table()?)?;
        }
        match planned {
            Publishing::Stage => {
                let told =
                    format!("{} shows another volume than was staged there", request.staging.display());
                return Err(Status::failed_precondition(told));
            }
            Publishing::Done => {}
            Publishing::MakeReadOnly => self.make_read_only(&request.volume, &staging, &target).await?,
            Publishing::Renew => {
                let known = self.known(&request.volume);
                let ours = |what: &Mounted| plan::is_ours(known.as_ref(), &request.target, what);
                self.clear(&request.volume, &target, ours).await?;
                self.bind(&request.volume, &staging, &target, request.read_only).await?;
            }
            Publishing::Bind => self.bind(&request.volume, &staging, &target, request.read_only).await?,
        }
        self.record_publication(request, &arguments, &staging, &target).await
    }

    fn silent(&self, volume: &str) -> Status {
        let server = self.known(volume).map(|record| record.server).unwrap_or_default();
        Status::unavailable(format!("volume {volume}: {server} has not answered for {:?}", self.times.stats))
    }

    /// Stages a volume whose stage was lost. Kubelet believes that it is there and will not ask for it.
    async fn stage_again(
        &self,
        request: &Publish,
        staging: &Arc<Place>,
        arguments: &Arguments,
    ) -> Result<(), Status> {
        let secrets = &request.secrets;
        if self.connector.needs_secrets() && secrets.iter().next().is_none() {
            return Err(Status::failed_precondition(format!(
                "volume {} is not staged at {}, and its secrets come only with NodeStageVolume",
                request.volume,
                request.staging.display()
            )));
        }
        // As it was staged; kubelet sends the same capability to both calls.
        let known = self.known(&request.volume).filter(|record| record.staging == request.staging);
        let arguments = known.map_or_else(|| arguments.clone(), |record| record.arguments);
        let volume = request.capability.volume(&request.volume, &request.context);
        tracing::warn!(volume = request.volume, "published without being staged: staging it");
        self.stage_at(&volume, staging, &arguments, secrets).await
    }

    async fn bind(
        &self,
        volume: &str,
        staging: &Arc<Place>,
        target: &Arc<Place>,
        read_only: bool,
    ) -> Result<(), Status> {
        let table = Self::table()?;
        let staged =
            table.top(staging.point()).map(|mount: &Mount| mount.options.clone()).unwrap_or_default();
        let (from, to) = (Arc::clone(staging), Arc::clone(target));
        let what = format!("bind volume {volume} to {}", target.path().display());
        let bound = self
            .on_thread(volume, what.clone(), move || {
                let prepared: Prepared = to.prepare_directory()?;
                let bound = to.bind(&prepared, &from, read_only, &staged);
                if bound.is_err() {
                    // Only what this call mounted or made can be there.
                    let _ = to.unmount(true);
                    if prepared.made {
                        let _ = to.remove();
                    }
                }
                bound
            })
            .await?;
        bound.map_err(|error| status::of_mount(&what, &error))
    }

    async fn make_read_only(
        &self,
        volume: &str,
        staging: &Arc<Place>,
        target: &Arc<Place>,
    ) -> Result<(), Status> {
        let table = Self::table()?;
        let options = table.top(staging.point()).map(|mount| mount.options.clone()).unwrap_or_default();
        let to = Arc::clone(target);
        let what = format!("make {} read-only", target.path().display());
        let made = self.on_thread(volume, what.clone(), move || to.make_read_only(&options)).await?;
        made.map_err(|error| status::of_mount(&what, &error))
    }

    /// Checks that the target shows the volume, and records it.
    async fn record_publication(
        &self,
        request: &Publish,
        arguments: &Arguments,
        staging: &Arc<Place>,
        target: &Arc<Place>,
    ) -> Result<(), Status> {
        let table = Self::table()?;
        let there = table.top(target.point());
        let known = self.known(&request.volume);
        let (Some(mut record), Some(there)) = (known, there) else {
            let told = format!("{} shows no mount after it was bound", request.target.display());
            return Err(Status::internal(told));
        };
        if record.mounted.as_ref() != Some(&there.what) || request.read_only && !there.read_only() {
            return Err(Status::internal(format!("{} shows {}", request.target.display(), there.what)));
        }
        let publication = Publication {
            target: request.target.clone(),
            point: target.point().to_owned(),
            read_only: request.read_only,
            arguments: arguments.clone(),
            mounted: there.what.clone(),
        };
        if record.publications.contains(&publication) {
            return Ok(());
        }
        // What is not mounted any more was of pods that are gone.
        record.publications.retain(|other| other.target != request.target && plan::is_live(other, &table));
        record.publications.push(publication);
        self.write(&record, staging).await
    }

    pub(super) async fn unpublish(&self, request: &Unpublish) -> Result<(), Status> {
        let known = self.known(&request.volume);
        if let Some(target) = self.place(&request.volume, &request.target).await? {
            let ours = |what: &Mounted| plan::is_ours(known.as_ref(), &request.target, what);
            self.clear(&request.volume, &target, ours).await?;
            let what = format!("remove {}", request.target.display());
            let removed = self.on_thread(&request.volume, what.clone(), move || target.remove()).await?;
            removed.map_err(|error| status::of_mount(&what, &error))?;
        }
        self.usages.lock().remove(&(request.volume.clone(), request.target.clone()));
        let Some(mut record) = known else {
            self.forget(&request.volume);
            return Ok(());
        };
        let before = record.publications.len();
        record.publications.retain(|publication| publication.target != request.target);
        if record.publications.len() < before
            && let Some(staging) = self.place(&request.volume, &record.staging).await?
        {
            self.write(&record, &staging).await?;
        }
        Ok(())
    }
}
