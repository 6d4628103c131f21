//! How kubelet learns of a driver: [`Registration`], a socket below `plugins_registry` on which kubelet asks what the plugin is
//! and says what became of it. No registrar sidecar is needed.
//!
//! The socket is there for as long as the driver is served: a kubelet that starts again asks again. Where its directory is made
//! again without it, so is the socket; where kubelet refuses the driver, the socket is made again after a pause, which makes
//! kubelet ask once more. It is removed at the end, which tells kubelet that the driver is gone.

mod http2;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http2::{Connection, End, Reply};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    kubelet,
    wire::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse},
};
use crate::system::socket::Bound;

/// The version of CSI that every kubelet takes.
const VERSION: &str = "1.0.0";
const TYPE: &str = "CSIPlugin";
const GET_INFO: &str = "/pluginregistration.Registration/GetInfo";
const NOTIFY: &str = "/pluginregistration.Registration/NotifyRegistrationStatus";

/// How often to look whether the socket is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Kubelet asks within a second where it watches this directory.
const ASKED_BY: Duration = Duration::from_mins(1);
/// The first pause after a refusal; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
/// A client that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_mins(5);

/// A driver that kubelet is to know.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its name.
    pub driver: String,
    /// Its CSI socket, as kubelet finds it.
    pub endpoint: PathBuf,
    /// The directory of kubelet.
    pub kubelet: PathBuf,
}

/// What kubelet has said.
#[derive(Debug, Default)]
struct Heard {
    asked: bool,
    registered: bool,
    refused: Option<String>,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    changed: Notify,
}

/// Why the socket is given up.
enum Over {
    Stopped,
    Gone,
    Refused(String),
}

impl Registration {
    /// The socket that kubelet finds.
    pub fn socket(&self) -> PathBuf {
        kubelet::registry(&self.kubelet).join(format!("{}-reg.sock", self.driver))
    }

    /// Keeps the driver registered until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        while !stop.is_cancelled() {
            let bound = match Bound::bind(&self.socket()) {
                Ok(bound) => bound,
                Err(error) => {
                    let why = why(&error);
                    if why != told {
                        tracing::error!(
                            driver = self.driver,
                            error = why,
                            "kubelet cannot be told of the driver: trying again"
                        );
                        told = why;
                    }
                    wait(LOOK_EVERY, &stop).await;
                    continue;
                }
            };
            told.clear();
            match self.serve(bound, &stop).await {
                Over::Stopped => {}
                Over::Gone => {
                    tracing::info!(driver = self.driver, "the registration socket is gone: making it again");
                    pause = FIRST_PAUSE;
                }
                Over::Refused(error) => {
                    tracing::error!(driver = self.driver, error, again_in = ?pause, "kubelet refuses the driver");
                    wait(pause, &stop).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Answers on the socket. It is removed when this ends.
    async fn serve(
        &self,
        (listener, bound): (std::os::unix::net::UnixListener, Bound),
        stop: &CancellationToken,
    ) -> Over {
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return Over::Refused(error.to_string()),
        };
        let ear = Arc::new(Ear::default());
        let clients = tokio_util::task::TaskTracker::new();
        let (mut look, since) = (tokio::time::interval(LOOK_EVERY), Instant::now());
        let mut missed = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Over::Stopped,
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => {
                        clients.spawn(answer(client, self.clone(), Arc::clone(&ear)));
                    }
                    Err(error) => {
                        tracing::warn!(driver = self.driver, %error, "a call of kubelet cannot be accepted");
                        wait(LOOK_EVERY, stop).await;
                    }
                },
                () = ear.changed.notified() => {
                    let heard = std::mem::take(&mut ear.heard.lock().refused);
                    if let Some(error) = heard {
                        return Over::Refused(error);
                    }
                }
                _ = look.tick() => {
                    if !bound.is_there() {
                        return Over::Gone;
                    }
                    if !missed && !ear.heard.lock().asked && since.elapsed() >= ASKED_BY {
                        missed = true;
                        tracing::warn!(
                            driver = self.driver,
                            socket = %bound.path().display(),
                            "kubelet has not asked for the driver: is {} its directory? {}",
                            self.kubelet.display(),
                            kubelet::OTHERS
                        );
                    }
                }
            }
        }
    }

    fn reply(&self, path: &str, message: &[u8], ear: &Ear) -> Reply {
        const BROKEN: Reply = Reply::Status(13, "the message cannot be decoded");
        match path {
            GET_INFO => {
                if InfoRequest::decode(message).is_err() {
                    return BROKEN;
                }
                ear.heard.lock().asked = true;
                Reply::Message(
                    PluginInfo {
                        r#type: TYPE.to_owned(),
                        name: self.driver.clone(),
                        endpoint: self.endpoint.to_string_lossy().into_owned(),
                        supported_versions: vec![VERSION.to_owned()],
                    }
                    .encode_to_vec(),
                )
            }
            NOTIFY => {
                let Ok(status) = RegistrationStatus::decode(message) else { return BROKEN };
                self.hear(status, ear);
                Reply::Message(RegistrationStatusResponse {}.encode_to_vec())
            }
            _ => Reply::Status(12, "only GetInfo and NotifyRegistrationStatus are served here"),
        }
    }

    fn hear(&self, status: RegistrationStatus, ear: &Ear) {
        let mut heard = ear.heard.lock();
        if status.plugin_registered {
            if !heard.registered {
                tracing::info!(driver = self.driver, "kubelet registered the driver");
            }
            heard.registered = true;
        } else {
            heard.registered = false;
            heard.refused = Some(status.error);
            ear.changed.notify_one();
        }
    }
}

fn why(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

async fn wait(time: Duration, stop: &CancellationToken) {
    let _ = timeout(time, stop.cancelled()).await;
}

/// Answers one client until it goes.
async fn answer(mut client: UnixStream, registration: Registration, ear: Arc<Ear>) {
    let mut connection = Connection::new();
    let mut buffer = vec![0; 4096];
    let mut output = Vec::new();
    while let Ok(Ok(count @ 1..)) = timeout(SILENCE, client.read(&mut buffer)).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        let taken =
            connection.take(bytes, &mut output, &mut |path, message| registration.reply(path, message, &ear));
        let written = client.write_all(&output).await;
        output.clear();
        if let Err(End::Wrong(why)) = &taken {
            tracing::warn!(
                driver = registration.driver,
                why,
                "a client of the registration socket is not understood"
            );
        }
        if taken.is_err() || written.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn registration() -> Registration {
        Registration {
            driver: "nfs.berth.storage".into(),
            endpoint: "/var/lib/kubelet/plugins/nfs.berth.storage/csi.sock".into(),
            kubelet: "/var/lib/kubelet".into(),
        }
    }

    #[test]
    fn kubelet_learns_the_name_the_socket_and_the_version() {
        let (registration, ear) = (registration(), Ear::default());
        let Reply::Message(message) = registration.reply(GET_INFO, &[], &ear) else { panic!("an answer") };
        let told = PluginInfo::decode(message.as_slice()).unwrap();
        assert_eq!((told.r#type.as_str(), told.name.as_str()), ("CSIPlugin", "nfs.berth.storage"));
        assert_eq!(told.endpoint, "/var/lib/kubelet/plugins/nfs.berth.storage/csi.sock");
        assert_eq!(told.supported_versions, ["1.0.0"]);
        assert!(ear.heard.lock().asked);
        let socket = registration.socket();
        assert_eq!(socket, Path::new("/var/lib/kubelet/plugins_registry/nfs.berth.storage-reg.sock"));
    }

    #[test]
    fn a_refusal_is_heard_though_its_message_is_empty() {
        let (registration, ear) = (registration(), Ear::default());
        registration.reply(NOTIFY, &[], &ear);
        assert_eq!(ear.heard.lock().refused.as_deref(), Some(""));
        let yes = RegistrationStatus { plugin_registered: true, error: String::new() }.encode_to_vec();
        registration.reply(NOTIFY, &yes, &ear);
        assert!(ear.heard.lock().registered);
        assert!(matches!(registration.reply(NOTIFY, &[0xff], &ear), Reply::Status(13, _)));
        assert!(matches!(
            registration.reply("/pluginregistration.Registration/Other", &[], &ear),
            Reply::Status(12, _)
        ));
    }
}
