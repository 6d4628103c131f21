//! What a start finds of the time before: the records are compared with the table of mounts.

use std::{path::Path, sync::Arc};

use super::{
    plan::{self, Left},
    record::{SUFFIX, StageRecord},
    work::Work,
};
use crate::system::mount::Place;

/// Where kubelet has its staging directories, below its own.
const STAGINGS: &str = "plugins/kubernetes.io/csi";
/// The records lie beside `<driver>/<hash>/globalmount`. One level further the search would look into the volumes themselves: what a
/// pod writes there is no record, and a server that is gone never answers.
const DEPTH: usize = 2;
/// What kubelet keeps beside a staging directory of this name for as long as it knows of it.
const KUBELETS: (&str, &str) = ("globalmount", "vol_data.json");

/// Reads the records of this driver, and takes away what nothing uses. What cannot be read or taken away is told and left: it
/// keeps no other volume from being served.
pub(super) async fn compare(work: &Work) {
    let tree = Arc::clone(&work.tree);
    let found = work
        .on_thread("", "look for records".to_owned(), move || tree.beside(Path::new(STAGINGS), SUFFIX, DEPTH))
        .await;
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return tracing::error!(%error, "the records of staged volumes cannot be listed"),
        Err(status) => return tracing::error!(error = status.message(), "the records cannot be listed"),
    };
    let (mut kept, mut forgotten, mut unstaged) = (0, 0, 0);
    for path in found {
        match one(work, &path).await {
            Ok(None) => {}
            Ok(Some(Left::Keep)) => kept += 1,
            Ok(Some(Left::Forget)) => forgotten += 1,
            Ok(Some(Left::Unstage)) => unstaged += 1,
            Err(error) => {
                tracing::error!(path = %path.display(), error, "what is left of a staged volume stays");
            }
        }
    }
    tracing::info!(driver = work.driver, kept, forgotten, unstaged, "compared the records with the mounts");
}

/// `None`: it is of another driver.
async fn one(work: &Work, path: &Path) -> Result<Option<Left>, String> {
    let told = |status: tonic::Status| status.message().to_owned();
    let Some(place) = work.place("", path).await.map_err(told)? else { return Ok(None) };
    let (record, known) = read(work, &place).await?;
    let Some(record) = record.filter(|record| record.driver == work.driver) else { return Ok(None) };
    let left = plan::left(&record, known, &Work::table().map_err(told)?);
    match left {
        Left::Keep => work.learn(record),
        Left::Unstage | Left::Forget => {
            work.learn(record.clone());
            work.unstage_record(&record, &place).await.map_err(told)?;
            tracing::info!(volume = record.volume, path = %path.display(), ?left, "a volume that nothing uses was unstaged");
        }
    }
    Ok(Some(left))
}

/// The record, and whether kubelet knows of the stage.
async fn read(work: &Work, place: &Arc<Place>) -> Result<(Option<StageRecord>, bool), String> {
    let at = Arc::clone(place);
    let (dir, file) = KUBELETS;
    let read = work.on_thread("", format!("read the record beside {}", place.path().display()), move || {
        let known = at.path().file_name().is_none_or(|name| name != dir) || at.sibling_exists(file);
        at.read_beside(SUFFIX).map(|text| (text, known))
    });
    let (text, known) = match read.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(status) => return Err(status.message().to_owned()),
    };
    let record = text.map(|text| serde_json::from_slice::<StageRecord>(&text)).transpose();
    let record = record.map_err(|error| format!("the record is not understood: {error}"))?;
    if let Some(record) = record.as_ref().filter(|record| record.staging != place.path()) {
        return Err(format!("the record is of {}", record.staging.display()));
    }
    Ok((record, known))
}
