//! What becomes of what was moved to the trash.

use std::os::unix::fs::symlink;

use super::*;

async fn trashed(site: &Site, name: &str, fill: impl FnOnce(&Path)) {
    let request = request(name, &[]);
    let volume = site.make(&request).await;
    fill(&site.path(&format!("team-{name}-pvc-uid-{name}")));
    let removal = conformance::removal(&request, &volume, Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
}

/// Proves: statement 25
#[tokio::test]
async fn volumes_with_links_and_read_only_directories_are_purged_and_what_they_point_to_stays() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let outside = temporary();
    fs::write(outside.path().join("file"), "").unwrap();
    trashed(&site, "x", |volume| {
        symlink(outside.path(), volume.join("link")).unwrap();
        symlink("../../..", volume.join("up")).unwrap();
        let closed = volume.join("closed/deeper");
        fs::create_dir_all(&closed).unwrap();
        fs::write(closed.join("file"), "").unwrap();
        for path in [closed, volume.join("closed")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
        }
    })
    .await;
    site.collect_until(|status| status.trash == 0).await;
    assert_eq!(site.trash().len(), 0);
    assert_eq!(tree(outside.path()), ["file"]);
    assert_eq!(site.nfs.stores()[0].purged, 6);
    assert_eq!(site.nfs.stores()[0].stuck, []);
}

#[tokio::test]
async fn what_an_earlier_process_left_in_the_trash_is_purged_and_removals_wake_the_purge() {
    let mut site = Site::new();
    trashed(&site, "x", |volume| fs::write(volume.join("file"), "").unwrap()).await;
    assert_eq!(site.nfs.stores()[0].trash, 1);
    site.restart();
    site.collect_until(|status| status.trash == 0 && status.purged == 2).await;
    let permit = Permit::unlimited();
    let later = async {
        for name in ["y", "z"] {
            trashed(&site, name, |_| ()).await;
            let since = Instant::now();
            while !site.trash().is_empty() {
                assert!(since.elapsed() < Duration::from_mins(1));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::select! {
        () = site.nfs.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = later => {}
    }
}

#[tokio::test]
async fn the_purge_stops_when_collect_garbage_is_dropped_or_the_permit_ends() {
    let site = Site::new();
    trashed(&site, "x", |volume| {
        for i in 0..100 {
            fs::write(volume.join(i.to_string()), "").unwrap();
        }
    })
    .await;
    let ended = Permit::unlimited();
    ended.revoke();
    site.nfs.collect_garbage(&ended).await;
    assert_eq!(site.nfs.stores()[0].purged, 0);
    site.nfs.stores[0].interruption.after(12);
    site.collect_until(|status| status.purged >= 9).await;
    assert_eq!(site.trash().len(), 1);
    site.nfs.stores[0].interruption.never();
    site.collect_until(|status| status.trash == 0).await;
    assert_eq!(site.nfs.stores()[0].purged, 101);
}

/// Proves: statement 25
#[tokio::test]
async fn a_mount_point_within_a_volume_is_left_alone_and_named_until_it_is_gone() {
    let Some(mount) = Mount::try_new() else {
        println!(
            "skipped: a_mount_point_within_a_volume_is_left_alone_and_named_until_it_is_gone: mounting is not allowed here"
        );
        return;
    };
    let site = Site::new();
    let mut mount = mount;
    trashed(&site, "x", |volume| {
        fs::create_dir_all(volume.join("a/mounted")).unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        mount.bind(&volume.join("a/mounted"));
    })
    .await;
    site.collect_until(|status| !status.stuck.is_empty()).await;
    let stuck = site.nfs.stores().remove(0).stuck;
    assert!(
        stuck[0].0.starts_with(".berth/purging/pvc-uid-x@") && stuck[0].0.ends_with("/a/mounted"),
        "{stuck:?}"
    );
    assert!(stuck[0].1.contains("mount point"), "{stuck:?}");
    assert!(mount.source.path().join("precious").exists());
    let entry = site.trash().remove(0);
    assert!(!site.has(&format!(".berth/purging/{entry}/a/file")), "everything around it goes");
    mount.unbind(&site.path(&format!(".berth/purging/{entry}/a/mounted")));
    site.collect_until(|status| status.trash == 0).await;
    assert_eq!(site.nfs.stores()[0].stuck, []);
}

/// A bind mount that ends with the test.
pub(super) struct Mount {
    source: TempDir,
    at: Option<PathBuf>,
}

impl Mount {
    /// `None` where this process may not mount.
    pub(super) fn try_new() -> Option<Self> {
        let source = temporary();
        fs::write(source.path().join("precious"), "").unwrap();
        let mut mount = Self { source, at: None };
        let probe = temporary();
        if !bind(mount.source.path(), probe.path()) {
            return None;
        }
        mount.unbind(probe.path());
        Some(mount)
    }

    pub(super) fn bind(&mut self, at: &Path) {
        assert!(bind(self.source.path(), at));
        self.at = Some(at.into());
    }

    pub(super) fn unbind(&mut self, at: &Path) {
        nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        self.at = None;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It has moved with the volume: whatever is left is found by what is mounted.
        if self.at.is_some() {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let name = self.source.path().to_string_lossy().into_owned();
            for line in table.lines().filter(|line| line.contains(&name)) {
                if let Some(at) = line.split(' ').nth(4) {
                    let _ = nix::mount::umount2(Path::new(at), nix::mount::MntFlags::MNT_DETACH);
                }
            }
        }
    }
}

fn bind(source: &Path, at: &Path) -> bool {
    nix::mount::mount(Some(source), at, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).is_ok()
}

/// What is left on the export when everything was removed and purged: our own directories, and the identity.
fn leftovers(site: &Site) -> Vec<String> {
    let mut left = tree(site.directory.path());
    left.retain(|path| {
        let parts: Vec<&str> = path.split('/').collect();
        !(parts.len() <= 2 && parts[0] == ".berth")
    });
    left
}

#[tokio::test]
async fn a_purge_that_was_interrupted_at_any_step_goes_on_and_leaves_nothing() {
    for restarted in [false, true] {
        for steps in 0..40 {
            let mut site = Site::new();
            trashed(&site, "x", |volume| {
                fs::create_dir(volume.join("inner")).unwrap();
                fs::write(volume.join("inner/file"), "").unwrap();
            })
            .await;
            site.nfs.stores[0].interruption.after(steps);
            let mut whole = false;
            site.collect_until(|status| {
                whole = status.trash == 0 && site.records("trash").is_empty();
                whole || site.nfs.stores[0].interruption.is_over()
            })
            .await;
            site.nfs.stores[0].interruption.never();
            if restarted {
                site.restart();
            }
            site.collect_until(|status| status.trash == 0 && site.records("trash").is_empty()).await;
            assert_eq!(leftovers(&site), [""; 0], "after {steps} steps, restarted: {restarted}");
            if whole {
                println!("purge: {steps} steps");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_volume_that_is_written_to_does_not_hold_up_the_purge_of_others_and_is_named() {
    let site = Site::new();
    for name in ["busy", "a", "b"] {
        trashed(&site, name, |volume| fs::write(volume.join("file"), "").unwrap()).await;
    }
    let root = site.directory.path().to_path_buf();
    site.nfs.stores[0].interruption.on_step(move |step| {
        // As a pod that is always just ahead of the purge.
        if step.what == "remove directory" && step.path().to_string_lossy().contains("busy") {
            let name = step.path().file_name().unwrap().to_owned();
            let _ = fs::write(root.join(".berth/purging").join(name).join("again"), "");
        }
        Ok(())
    });
    site.collect_until(|status| status.trash == 1 && !status.stuck.is_empty()).await;
    let stuck = site.nfs.stores().remove(0).stuck;
    assert!(stuck[0].0.contains("pvc-uid-busy@"), "{stuck:?}");
    assert!(stuck[0].1.contains("still writes there"), "{stuck:?}");
    site.nfs.stores[0].interruption.never();
    site.collect_until(|status| status.trash == 0).await;
    assert_eq!(site.nfs.stores()[0].stuck, []);
}

#[tokio::test]
async fn what_the_previous_version_left_in_the_trash_is_purged_a_day_later_if_no_pv_and_no_volume_is_its_owner()
 {
    let mut site = Site::new();
    site.make(&request("other", &[])).await;
    let at: std::time::SystemTime = "2026-03-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
    let entry = ".berth/trash/pvc-uid-x@20260301T000000Z";
    site.plant(entry);
    let volume = VolumeName::for_claim("uid-x").unwrap();
    let settled = |status: &StoreStatus| status.trash == 1;
    // Its PV is there: it may be in use.
    site.kube.set_volume(&volume, "object", false);
    site.kube.set_now(at + Duration::from_hours(25));
    site.collect_until(|status| settled(status) && !status.stuck.is_empty()).await;
    assert!(site.nfs.stores()[0].stuck[0].1.contains("pvc-uid-x"));
    // It is gone, but not for long enough.
    site.kube.delete_volume(&volume);
    site.kube.set_now(at + Duration::from_hours(23));
    site.restart();
    site.collect_until(settled).await;
    // A volume that recorded no inode misses its directory: it may be this one.
    let record = site.path(".berth/volumes/pvc-uid-other.json");
    let whole = fs::read_to_string(&record).unwrap();
    fs::rename(site.path("team-other-pvc-uid-other"), site.path("aside")).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&whole).unwrap();
    old.as_object_mut().unwrap().remove("inode");
    fs::write(&record, old.to_string()).unwrap();
    site.kube.set_now(at + Duration::from_hours(25));
    site.restart();
    site.collect_until(|status| settled(status) && !status.stuck.is_empty()).await;
    assert!(site.nfs.stores()[0].stuck[0].1.contains("pvc-uid-other"), "{:?}", site.nfs.stores()[0].stuck);
    assert!(site.has(&format!("{entry}/file")));
    fs::rename(site.path("aside"), site.path("team-other-pvc-uid-other")).unwrap();
    site.restart();
    site.collect_until(|status| status.trash == 0 && !site.has(entry)).await;
}
