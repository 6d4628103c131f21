//! What must hold when all have played: [`judge`].

use super::*;

/// Lets each cluster go on undisturbed, and says what is lost or left over then.
pub(super) async fn judge(stage: &Arc<Stage>) -> Option<String> {
    let processes: Vec<Process> =
        (0..CLUSTERS.len()).map(|cluster| Process::new(stage, None, cluster)).collect();
    for process in &processes {
        process.go_on().await.unwrap();
    }
    let found = stage.ledger().wrong.clone();
    if let Some(wrong) = found.or_else(|| lost(stage)) {
        return Some(wrong);
    }
    let bound: Vec<(usize, &'static str)> = {
        let ledger = stage.ledger();
        let bound = ledger.claims.iter().filter(|(_, entry)| entry.state == State::Bound);
        bound.map(|(name, entry)| (entry.cluster, *name)).collect()
    };
    for (cluster, name) in bound {
        processes[cluster].release(name, Disposal::Delete).await.unwrap();
    }
    for process in &processes {
        process.go_on().await.unwrap();
    }
    left_over(stage)
}

/// What a bound claim misses, or sees and must not.
fn lost(stage: &Stage) -> Option<String> {
    let ledger = stage.ledger();
    let mut places: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (name, entry) in ledger.claims.iter().filter(|(_, entry)| entry.state == State::Bound) {
        let volume = entry.volume.as_ref().unwrap();
        let directory = stage.directory(volume);
        if fs::read_to_string(directory.join(name)).ok().as_deref() != Some(name) {
            return Some(format!("the data of {name}, which is bound, is not in its directory"));
        }
        for (other, of) in &ledger.claims {
            let both = of.shares && entry.shares;
            if other != name && directory.join(other).exists() && !both {
                return Some(format!("{name} sees the data of {other}, which is {:?}", of.state));
            }
        }
        if let Some(other) = places.insert(directory, name)
            && !(entry.shares && ledger.claims[other].shares)
        {
            return Some(format!("{name} and {other} are in one directory"));
        }
    }
    for (name, _) in ledger.claims.iter().filter(|(_, e)| e.state == State::Gone(Disposal::Archive)) {
        let archived = |path: &String| path.starts_with("archived-") && path.ends_with(&format!("/{name}"));
        if !tree(&stage.root()).iter().any(archived) {
            return Some(format!("the data of {name}, which is archived, is gone"));
        }
    }
    None
}

/// What is on the export that nothing accounts for, when all volumes are gone.
fn left_over(stage: &Stage) -> Option<String> {
    let ledger = stage.ledger();
    for (name, entry) in &ledger.claims {
        if matches!(entry.state, State::Bound | State::Released(_)) {
            return Some(format!("{name} cannot be removed: {entry:?}"));
        }
    }
    let kept = ["export.json", "archived", "places/archived-", "parents/archived-"];
    let accounted = |path: &str| match path.strip_prefix(".berth/") {
        None => path == ".berth" || path.starts_with("archived-"),
        Some(below) => !below.contains('/') || kept.iter().any(|kept| below.starts_with(kept)),
    };
    let left: Vec<String> = tree(&stage.root()).into_iter().filter(|path| !accounted(path)).collect();
    (!left.is_empty()).then(|| format!("nobody accounts for {left:?}"))
}
