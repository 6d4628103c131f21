//! Whether monitors listen, and in which protocol: [`probe`] asks one address, [`diagnosis`] says what was found.
//!
//! The programs say of everything that keeps them from a monitor that they timed out, also of a key that was refused where an
//! address does not say which protocol is spoken there: they wait for the other one. A monitor names its protocol to every
//! client, before it asks who that is. No program is started for that, and no key is needed.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::monitors::{Endpoint, Protocol};

/// What listens at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// A monitor.
    Monitor(Protocol),
    /// Something else.
    NotMonitor,
    /// Nothing, and the machine says so.
    Refused(String),
    /// No answer in time.
    Silent,
}

/// One address and what listens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probed {
    pub(super) endpoint: Endpoint,
    pub(super) greeting: ProbeResult,
}

/// Asks all of them at once.
pub(super) async fn probe_monitors(endpoints: Vec<Endpoint>, limit: Duration) -> Vec<Probed> {
    let asked = endpoints.into_iter().map(|endpoint| async move {
        let greeting = probe(endpoint.address, limit).await;
        Probed { endpoint, greeting }
    });
    futures::future::join_all(asked).await
}

async fn probe(address: SocketAddr, limit: Duration) -> ProbeResult {
    let greeting = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut banner = [0; BANNER];
        match stream.read_exact(&mut banner).await {
            Ok(_) => Ok(banner),
            // It said less, or nothing, and hung up.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(banner),
            Err(error) => Err(error),
        }
    };
    match timeout(limit, greeting).await {
        Ok(Ok(banner)) => read(banner),
        Ok(Err(error)) => ProbeResult::Refused(error.kind().to_string()),
        Err(_late) => ProbeResult::Silent,
    }
}

/// As much as tells the protocols apart: `ceph v027` and `ceph v2\n`.
const BANNER: usize = 8;

fn read(banner: [u8; BANNER]) -> ProbeResult {
    match &banner {
        b"ceph v2\n" => ProbeResult::Monitor(Protocol::V2),
        [b'c', b'e', b'p', b'h', b' ', b'v', b'0', _] => ProbeResult::Monitor(Protocol::V1),
        _ => ProbeResult::NotMonitor,
    }
}

/// Whether a monitor listens anywhere.
pub(super) fn any_monitor(heard: &[Probed]) -> bool {
    heard.iter().any(|heard| matches!(heard.greeting, ProbeResult::Monitor(_)))
}

/// The protocols that are spoken at addresses that do not say one.
pub(super) fn msgr_protocols(heard: &[Probed]) -> BTreeMap<SocketAddr, Protocol> {
    let msgr_protocols = heard.iter().filter_map(|heard| match heard {
        Probed {
            endpoint: Endpoint { address, protocol: None },
            greeting: ProbeResult::Monitor(protocol),
        } => Some((*address, *protocol)),
        _ => None,
    });
    msgr_protocols.collect()
}

/// What was found, in words; empty where there was nothing to ask.
pub(super) fn diagnosis(heard: &[Probed]) -> String {
    const SHOWN: usize = 3;
    let mut found: Vec<String> = Vec::new();
    for Probed { endpoint, greeting } in heard {
        let Endpoint { address, protocol } = endpoint;
        let shown = endpoint.shown();
        let words = match (greeting, protocol) {
            (ProbeResult::Monitor(heard), Some(stderr)) if heard != stderr => {
                format!("the monitor at {shown} speaks the other protocol: write {heard}:{address}")
            }
            (ProbeResult::Monitor(_), _) => {
                format!("a monitor listens at {shown} but does not serve: it may have no quorum (ceph -s)")
            }
            (ProbeResult::NotMonitor, _) => format!("what listens at {shown} is no monitor"),
            (ProbeResult::Refused(why), _) => format!("{shown}: {why}"),
            (ProbeResult::Silent, _) => format!("{shown} does not answer"),
        };
        if !found.contains(&words) {
            found.push(words);
        }
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    let mut text = found.join("; ");
    if more > 0 {
        text = format!("{text}; and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn endpoint(address: &str, protocol: Option<Protocol>) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), protocol }
    }

    #[tokio::test]
    async fn a_monitor_is_recognised_by_what_it_says_first() {
        let rows: [(&[u8], ProbeResult); 4] = [
            (b"ceph v027\0\0\0\0", ProbeResult::Monitor(Protocol::V1)),
            (b"ceph v2\n\x10\0\x01", ProbeResult::Monitor(Protocol::V2)),
            (b"SSH-2.0-OpenSSH_9.2", ProbeResult::NotMonitor),
            (b"", ProbeResult::NotMonitor),
        ];
        for (banner, expected) in rows {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (greeting, ()) = tokio::join!(probe(address, SOON), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(banner).await.unwrap();
            });
            assert_eq!(greeting, expected, "{banner:?}");
        }
    }

    #[tokio::test]
    async fn nothing_and_silence_are_distinguished() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address, Duration::from_secs(2)).await, ProbeResult::Silent);
        drop(listener);
        let ProbeResult::Refused(why) = probe(address, SOON).await else { panic!() };
        assert_eq!(why, "connection refused");
    }

    #[test]
    fn what_keeps_a_program_from_a_monitor_is_said() {
        let refused = || ProbeResult::Refused("connection refused".into());
        let rows = [
            ("10.0.0.1:6789", None, refused(), "10.0.0.1:6789: connection refused"),
            ("[fd00::1]:3300", Some(Protocol::V2), ProbeResult::Silent, "v2:[fd00::1]:3300 does not answer"),
            ("10.0.0.1:80", None, ProbeResult::NotMonitor, "what listens at 10.0.0.1:80 is no monitor"),
            (
                "10.0.0.1:6789",
                Some(Protocol::V2),
                ProbeResult::Monitor(Protocol::V1),
                "the monitor at v2:10.0.0.1:6789 speaks the other protocol: write v1:10.0.0.1:6789",
            ),
            (
                "10.0.0.1:6789",
                Some(Protocol::V1),
                ProbeResult::Monitor(Protocol::V1),
                "a monitor listens at v1:10.0.0.1:6789 but does not serve: it may have no quorum (ceph -s)",
            ),
        ];
        for (address, protocol, greeting, words) in rows {
            let heard = [Probed { endpoint: endpoint(address, protocol), greeting }];
            assert_eq!(diagnosis(&heard), words);
        }
        let many: Vec<Probed> = (1..=5)
            .map(|i| Probed {
                endpoint: endpoint(&format!("10.0.0.{i}:1"), None),
                greeting: ProbeResult::Silent,
            })
            .collect();
        assert!(diagnosis(&many).ends_with("10.0.0.3:1 does not answer; and 2 more"));
        assert_eq!(diagnosis(&[]), "");
    }

    #[test]
    fn only_an_address_without_a_protocol_learns_one() {
        let monitor = |address: &str, protocol| Probed {
            endpoint: endpoint(address, protocol),
            greeting: ProbeResult::Monitor(Protocol::V1),
        };
        let heard = [monitor("10.0.0.1:1", None), monitor("10.0.0.2:1", Some(Protocol::V2))];
        assert_eq!(msgr_protocols(&heard), BTreeMap::from([("10.0.0.1:1".parse().unwrap(), Protocol::V1)]));
        assert!(any_monitor(&heard) && !any_monitor(&[]));
    }
}
