//! Serves an empty cluster until it is interrupted: `cargo run -p berth-apiserver --example serve -- [KUBECONFIG]`.

use berth_apiserver::{ApiServer, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ApiServer::start(Options::default())?;
    let path = std::env::args().nth(1).unwrap_or_else(|| "kubeconfig".into());
    std::fs::write(&path, server.kubeconfig("admin"))?;
    println!("KUBECONFIG={path}  {}", server.url());
    loop {
        std::thread::park();
    }
}
