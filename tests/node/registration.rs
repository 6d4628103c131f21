//! The registration as kubelet's client does it: raw HTTP/2 with the path of the socket as `:authority`.

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    time::Duration,
};

use berth::csi::wire::pluginregistration::{PluginInfo, RegistrationStatus};
use prost::Message as _;

use crate::host::{DRIVER, Host, skipped, wait_until};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Calls one method as grpc-go does, and returns the message of the answer.
fn call(host: &Host, method: &str, message: &[u8]) -> Vec<u8> {
    let mut client = UnixStream::connect(host.registration()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut headers = vec![0x83, 0x86];
    let path = format!("/pluginregistration.Registration/{method}");
    let authority = host.registration().to_str().unwrap().replace('/', "%2F");
    for (index, text) in [(0x44, path.as_str()), (0x41, authority.as_str())] {
        headers.push(index);
        if text.len() < 127 {
            headers.push(u8::try_from(text.len()).unwrap());
        } else {
            headers.extend([127, u8::try_from(text.len() - 127).unwrap()]);
        }
        headers.extend(text.bytes());
    }
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    client.write_all(&frame(4, 0, 0, &[])).unwrap();
    client.write_all(&frame(1, 4, 1, &headers)).unwrap();
    client.write_all(&frame(0, 1, 1, &body)).unwrap();
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        client.read_exact(&mut payload).unwrap();
        assert!(!matches!(head[3], 3 | 7), "reset or goaway");
        if head[3] == 0 {
            return payload.split_off(5);
        }
    }
}

fn inode(host: &Host) -> Option<u64> {
    std::fs::symlink_metadata(host.registration()).ok().map(|there| there.ino())
}

#[test]
fn kubelet_registers_the_driver_asks_again_after_a_refusal_and_finds_it_in_a_new_directory() {
    if skipped("kubelet registers the driver") {
        return;
    }
    let mut host = Host::start();
    assert_eq!(std::fs::symlink_metadata(host.registration()).unwrap().mode() & 0o7777, 0o600);
    let info = PluginInfo::decode(call(&host, "GetInfo", &[]).as_slice()).unwrap();
    assert_eq!((info.name.as_str(), info.r#type.as_str()), (DRIVER, "CSIPlugin"));
    assert_eq!(
        (info.endpoint, info.supported_versions),
        (host.socket().to_str().unwrap().into(), vec!["1.0.0".to_owned()])
    );
    let yes = RegistrationStatus { plugin_registered: true, error: String::new() };
    call(&host, "NotifyRegistrationStatus", &yes.encode_to_vec());
    wait_until("the registration is told", || host.log().contains("kubelet registered the driver"));
    // A kubelet that starts again asks again, on the same socket.
    let before = inode(&host);
    call(&host, "GetInfo", &[]);
    assert_eq!(inode(&host), before);
    // Refused: told, and asked again by a new socket.
    let no = RegistrationStatus { plugin_registered: false, error: "a name that is taken".into() };
    call(&host, "NotifyRegistrationStatus", &no.encode_to_vec());
    wait_until("the socket is made again", || inode(&host).is_some() && inode(&host) != before);
    assert!(host.log().contains("a name that is taken"));
    call(&host, "GetInfo", &[]);
    // The directory is made again.
    let registry = host.kubelet().join("plugins_registry");
    std::fs::rename(&registry, host.kubelet().join("gone")).unwrap();
    std::fs::create_dir(&registry).unwrap();
    wait_until("the socket is made in the new directory", || {
        UnixStream::connect(host.registration()).is_ok()
    });
    call(&host, "GetInfo", &[]);
    assert_eq!(host.stop_berth(), Some(0));
    assert_eq!(inode(&host), None);
}
