//! The same against a real cluster, whose configuration file `BERTH_TEST_CEPH_CONF` names; without it these tests say that they
//! were skipped. The cluster is one to be filled with rubbish, such as `e2e/ceph up` makes.

use std::{collections::BTreeMap, fs, process::Command as Program};

use crate::{
    backend::ceph::{Call, Ceph, Cluster, Credentials, Key, Reason, Tool, Tools, fake::KEY},
    volume::Permit,
};

struct Real {
    monitors: String,
    key: Key,
}

impl Real {
    fn find(test: &str) -> Option<Self> {
        let Ok(conf) = std::env::var("BERTH_TEST_CEPH_CONF") else {
            eprintln!(
                "skipped: {test}: BERTH_TEST_CEPH_CONF names no configuration of a running Ceph cluster"
            );
            return None;
        };
        let ceph_conf = |option: &str| {
            let output =
                Program::new("ceph-conf").args(["--conf", &conf, "--lookup", option]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let keyring = fs::read_to_string(ceph_conf("keyring")).unwrap();
        let (_, admin) = keyring.split_once("[client.admin]").unwrap();
        let key = admin.lines().find_map(|line| line.trim().strip_prefix("key = ")).unwrap();
        Some(Self { monitors: ceph_conf("mon_host"), key: Key::parse(key.as_bytes()).unwrap() })
    }

    fn ceph(&self, tools: Tools) -> Ceph {
        let cluster = Cluster::new("real", self.monitors.parse().unwrap(), tools).unwrap();
        cluster.with(Credentials::new("admin", self.key.clone()).unwrap())
    }
}

async fn file_system(ceph: &Ceph) -> String {
    #[derive(serde::Deserialize)]
    struct FileSystem {
        name: String,
    }
    let reply = ceph.call(Tool::Ceph, Call::reads("list", ["fs", "ls"])).await.unwrap();
    reply.json::<Vec<FileSystem>>().unwrap().unwrap().remove(0).name
}

#[tokio::test]
async fn a_real_cluster_answers() {
    let Some(real) = Real::find("a_real_cluster_answers") else { return };
    for sessions in [0, 1] {
        let ceph = real.ceph(Tools { sessions, ..Tools::default() });
        assert_eq!(ceph.fsid().await.unwrap().len(), 36);
        ceph.call(Tool::Rbd, Call::reads("list", ["ls", "rbd", "--format", "json"])).await.unwrap();
        let fs = file_system(&ceph).await;
        let forever = Permit::unlimited();
        let change =
            |args: &[&str]| ceph.call(Tool::Ceph, Call::changes("change", args.iter().copied(), &forever));
        change(&["fs", "subvolumegroup", "create", &fs, "real"]).await.unwrap();
        change(&["fs", "subvolume", "create", &fs, "one", "4194304", "--group_name", "real"]).await.unwrap();
        let owner = r#"{"name":"it's $HOME \"q\" # a"}"#;
        let meta = ["berth.owner", owner, "--group_name", "real"];
        change(&[&["fs", "subvolume", "metadata", "set", &fs, "one"][..], &meta].concat()).await.unwrap();
        let get = ["fs", "subvolume", "metadata", "get", &fs, "one", "berth.owner", "--group_name", "real"];
        assert_eq!(ceph.call(Tool::Ceph, Call::reads("get", get)).await.unwrap().text().unwrap(), owner);
        let failed =
            change(&["fs", "subvolume", "rm", &fs, "none", "--group_name", "real"]).await.unwrap_err();
        assert_eq!((failed.reason, failed.code), (Reason::NoSubvolume, Some(2)), "{failed}");
        change(&["fs", "subvolume", "rm", &fs, "one", "--group_name", "real"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_real_cluster_refuses_a_wrong_key_and_an_address_without_one_costs_seconds() {
    let name = "a_real_cluster_refuses_a_wrong_key_and_an_address_without_one_costs_seconds";
    let Some(real) = Real::find(name) else { return };
    for sessions in [0, 1] {
        let tools = Tools { sessions, connect: std::time::Duration::from_secs(2), ..Tools::default() };
        let wrong = Credentials::new("admin", Key::parse(KEY.as_bytes()).unwrap()).unwrap();
        let ceph = real.ceph(tools.clone()).cluster().with(wrong);
        assert_eq!(ceph.fsid().await.unwrap_err().reason, Reason::WrongKey);
        let failed = ceph.call(Tool::Rbd, Call::reads("list", ["ls", "rbd"])).await.unwrap_err();
        assert_eq!(failed.reason, Reason::WrongKey, "{failed}");
        let nowhere = Cluster::new("nowhere", "v1:127.0.0.1:9".parse().unwrap(), tools).unwrap();
        let ceph = nowhere.with(Credentials::new("admin", real.key.clone()).unwrap());
        assert_eq!(ceph.fsid().await.unwrap_err().reason, Reason::Unreachable);
        let failed = ceph.call(Tool::Rbd, Call::reads("list", ["ls", "rbd"])).await.unwrap_err();
        assert_eq!(failed.reason, Reason::Unreachable, "{failed}");
    }
}

#[tokio::test]
async fn refusals_of_a_real_cluster_are_distinguished_whatever_its_monitors_speak_and_at_whatever_port() {
    let name =
        "refusals_of_a_real_cluster_are_distinguished_whatever_its_monitors_speak_and_at_whatever_port";
    let Some(real) = Real::find(name) else { return };
    let admin = real.ceph(Tools::default());
    let forever = Permit::unlimited();
    let user = |name: &'static str, caps: &'static [&'static str]| {
        let (admin, forever) = (admin.clone(), forever.clone());
        async move {
            let entity = format!("client.real-{name}");
            let args = [&["auth", "get-or-create-key", &entity][..], caps].concat();
            let reply = admin.call(Tool::Ceph, Call::changes("make", args, &forever)).await.unwrap();
            let key: BTreeMap<String, String> = reply.require_json().unwrap();
            Credentials::new(&format!("real-{name}"), Key::parse(key["key"].as_bytes()).unwrap()).unwrap()
        }
    };
    let mute = user("mute", &[]).await;
    let reader = user("reader", &["mon", "allow r"]).await;
    let wrong = Credentials::new("admin", Key::parse(KEY.as_bytes()).unwrap()).unwrap();
    let good = Credentials::new("admin", real.key.clone()).unwrap();
    // `[v2:HOST:PORT,v1:HOST:PORT]`, of which the ports are not the usual ones.
    let both = real.monitors.trim_start_matches('[').trim_end_matches(']').to_owned();
    let bare = both.split(',').map(|one| one.trim_start_matches("v1:").trim_start_matches("v2:"));
    let mut monitors: Vec<String> = both.split(',').map(str::to_owned).collect();
    monitors.extend(bare.map(str::to_owned));
    for monitors in monitors {
        let tools = Tools { connect: std::time::Duration::from_secs(2), ..Tools::default() };
        let cluster = Cluster::new("real", monitors.parse().unwrap(), tools).unwrap();
        let asked = |credentials: &Credentials| {
            let ceph = cluster.with(credentials.clone());
            async move {
                let rbd = ceph.call(Tool::Rbd, Call::reads("list", ["ls", "rbd"])).await.map(drop);
                let trash = ["-p", "rbd", "listomapvals", "rbd_trash"];
                let rados = ceph.call(Tool::Rados, Call::reads("list", trash)).await.map(drop);
                let groups = ceph
                    .call(Tool::Ceph, Call::reads("list", ["fs", "subvolumegroup", "ls", "cephfs"]))
                    .await;
                [rbd, rados, groups.map(drop)].map(|outcome| outcome.err().map(|failed| failed.reason))
            }
        };
        let all = |reason| [Some(reason); 3];
        assert_eq!(asked(&wrong).await, all(Reason::WrongKey), "{monitors}");
        assert_eq!(asked(&mute).await, all(Reason::WrongKey), "{monitors}: refused in the same way");
        assert_eq!(asked(&reader).await, all(Reason::NotPermitted), "{monitors}");
        let [rbd, rados, groups] = asked(&good).await;
        // Nothing may have been moved to the trash yet.
        assert!(rados.is_none_or(|reason| reason == Reason::NoObject), "{monitors}: {rados:?}");
        assert_eq!((rbd, groups), (None, None), "{monitors}");
    }
}
