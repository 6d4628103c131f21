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
    site.tend_until(|status| status.trash == 0).await;
    assert_eq!(site.records("trash").len(), 0);
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
    site.tend_until(|status| status.trash == 0 && status.purged == 2).await;
    let permit = Permit::unlimited();
    let later = async {
        for name in ["y", "z"] {
            trashed(&site, name, |_| ()).await;
            let since = Instant::now();
            while !site.records("trash").is_empty() {
                assert!(since.elapsed() < Duration::from_mins(1));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::select! {
        () = site.nfs.tend(&permit) => unreachable!("the permit has not ended"),
        () = later => {}
    }
}

#[tokio::test]
async fn the_purge_stops_when_nobody_tends_any_more_and_when_the_permit_ends() {
    let site = Site::new();
    trashed(&site, "x", |volume| {
        for i in 0..100 {
            fs::write(volume.join(i.to_string()), "").unwrap();
        }
    })
    .await;
    let ended = Permit::unlimited();
    ended.revoke();
    site.nfs.tend(&ended).await;
    assert_eq!(site.nfs.stores()[0].purged, 0);
    site.nfs.stores[0].interruption.after(10);
    site.tend_until(|status| status.purged >= 9).await;
    assert_eq!(site.records("trash").len(), 1);
    site.nfs.stores[0].interruption.never();
    site.tend_until(|status| status.trash == 0).await;
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
    site.tend_until(|status| !status.stuck.is_empty()).await;
    let stuck = site.nfs.stores().remove(0).stuck;
    assert!(
        stuck[0].0.starts_with(".berth/trash/pvc-uid-x@") && stuck[0].0.ends_with("/a/mounted"),
        "{stuck:?}"
    );
    assert!(stuck[0].1.contains("mount point"), "{stuck:?}");
    assert!(mount.source.path().join("precious").exists());
    let entry = site.records("trash").remove(0);
    assert!(!site.has(&format!(".berth/trash/{entry}/a/file")), "everything around it goes");
    mount.unbind(&site.path(&format!(".berth/trash/{entry}/a/mounted")));
    site.tend_until(|status| status.trash == 0).await;
    assert_eq!(site.nfs.stores()[0].stuck, []);
}

/// A bind mount that ends with the test.
struct Mount {
    source: TempDir,
    at: Option<PathBuf>,
}

impl Mount {
    /// `None` where this process may not mount.
    fn try_new() -> Option<Self> {
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

    fn bind(&mut self, at: &Path) {
        assert!(bind(self.source.path(), at));
        self.at = Some(at.into());
    }

    fn unbind(&mut self, at: &Path) {
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
