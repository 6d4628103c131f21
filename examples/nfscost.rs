use berth::backend::{nfs::*, *};
use berth::volume::*;
use futures::StreamExt;
use std::{collections::BTreeMap, sync::Arc, time::*};
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
#[tokio::main]
async fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let n: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let conc: usize = 32;
    let pattern = std::env::args().nth(3);
    let e = Export {
        name: "default".into(),
        server: "s".into(),
        aliases: vec![],
        path: "/e".into(),
        former_paths: vec![],
        root: dir.into(),
        require_mount: false,
        deadline: Duration::from_secs(300),
        threads: conc,
    };
    let nfs = Arc::new(Nfs::new(vec![e]).unwrap());
    nfs.remember(Past { store: "default".into(), identity: None, places: vec![] });
    let reqs: Vec<VolumeRequest> = (0..n)
        .map(|i| {
            let uid = format!("{i:08}-0000-0000-0000-000000000000");
            VolumeRequest {
                name: VolumeName::for_claim(&uid).unwrap(),
                claim: Claim {
                    namespace: "team".into(),
                    name: format!("c{i}"),
                    uid,
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                },
                capacity: Capacity::from_bytes(1),
                access: vec![Access::ReadWriteMany],
                mode: Mode::Filesystem,
                parameters: pattern.iter().map(|p| ("pathPattern".to_string(), p.clone())).collect(),
            }
        })
        .collect();
    let p = Permit::unlimited();
    let (t, c) = (Instant::now(), cpu());
    let vols: Vec<Volume> = futures::stream::iter(&reqs)
        .map(|r| {
            let (nfs, p) = (nfs.clone(), p.clone());
            async move {
                let v = nfs.create(r, &p).await.unwrap();
                nfs.confirm(&v.id, &p).await.unwrap();
                v
            }
        })
        .buffered(conc)
        .collect()
        .await;
    println!("create+confirm {n}: {:?} cpu {:.2}", t.elapsed(), cpu() - c);
    let (t, c) = (Instant::now(), cpu());
    futures::stream::iter(reqs.iter().zip(&vols))
        .map(|(r, v)| {
            let (nfs, p) = (nfs.clone(), p.clone());
            async move {
                nfs.remove(
                    &Removal {
                        name: r.name.clone(),
                        id: Some(v.id.clone()),
                        source: v.source.clone(),
                        claim: ClaimKey {
                            namespace: r.claim.namespace.clone(),
                            name: r.claim.name.clone(),
                            uid: r.claim.uid.clone(),
                        },
                        origin: Origin::Created,
                        disposal: Disposal::Delete,
                    },
                    &p,
                )
                .await
                .unwrap()
            }
        })
        .buffered(conc)
        .collect::<Vec<_>>()
        .await;
    println!("remove {n}: {:?} cpu {:.2}", t.elapsed(), cpu() - c);
    let (t, c) = (Instant::now(), cpu());
    let n2 = nfs.clone();
    let p2 = p.clone();
    let tend = tokio::spawn(async move { n2.tend(&p2).await });
    while nfs.stores()[0].trash > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await
    }
    println!("purge {n}: {:?} cpu {:.2} purged {}", t.elapsed(), cpu() - c, nfs.stores()[0].purged);
    tend.abort();
}
