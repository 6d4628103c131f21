//! The name or address of an NFS server, as a PV holds it: [`check`] refuses what no node could ever mount from.
//!
//! It resolves nothing: a name that nobody knows today may be known tomorrow.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Why this text cannot be a server, with what to write instead.
pub(super) fn check(text: &str) -> Result<(), String> {
    let inner = text.trim();
    let quotes = ['"', '\'', '`', '“', '”', '‘', '’'];
    let bare = inner.trim_matches(quotes);
    if bare != inner {
        return Err(format!("has quotes around it: write {bare}"));
    }
    if inner.len() > 2 && inner.starts_with('<') && inner.ends_with('>') {
        return Err("is a placeholder: write the server's host name or address in its place".to_owned());
    }
    if inner.contains([',', ';']) || inner.split_whitespace().nth(1).is_some() {
        return Err("names several servers, and a volume has one: write one of them, and the others as exports of their \
                    own into the file of --config"
            .to_owned());
    }
    if text.is_empty() || text.contains('/') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("must be the host name or the address of an NFS server, without a path".to_owned());
    }
    if text.contains(['[', ']']) {
        return bracketed(text);
    }
    if is_ipv6(text) {
        return Ok(());
    }
    if let Some((server, port)) = text.split_once(':') {
        return Err(with_colon(server, port));
    }
    name(text)
}

/// An IPv6 address, perhaps with the interface by which it is reached.
fn is_ipv6(text: &str) -> bool {
    match text.split_once('%') {
        Some((address, interface)) => !interface.is_empty() && address.parse::<Ipv6Addr>().is_ok(),
        None => text.parse::<Ipv6Addr>().is_ok(),
    }
}

fn bracketed(text: &str) -> Result<(), String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if inner.is_some_and(is_ipv6) {
        return Ok(());
    }
    let (address, after) = text.split_once(']').unwrap_or((text, ""));
    let address = address.trim_matches(['[', ']']);
    if !is_ipv6(address) {
        return Err("has brackets, which only an IPv6 address has, such as fd00::1".to_owned());
    }
    Err(match after.strip_prefix(':') {
        Some(port) => with_colon(address, port),
        None => format!("has one bracket without the other: write {address}"),
    })
}

/// Why what stands before and after a colon is not a server.
fn with_colon(server: &str, after: &str) -> String {
    if after.is_empty() {
        format!("ends with a colon: write {server}")
    } else if after == "2049" {
        format!("has a port: write {server}, 2049 is the usual one")
    } else if after.parse::<u16>().is_ok() {
        format!("has a port: write {server}, and port={after} under mountOptions of the StorageClass")
    } else {
        "is neither a host name nor an address: it has colons, and is no IPv6 address".to_owned()
    }
}

/// A host name or an IPv4 address. A machine may know names, in its own file of hosts, that DNS does not allow.
fn name(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = text.starts_with(|c: char| c.is_alphanumeric() || c == '_') && !text.contains("..");
    if !ends || !text.chars().all(plain) {
        return Err(
            "must be the host name or the address of an NFS server: letters, digits, '-' and '.'".to_owned()
        );
    }
    let numbers = text.split('.').count() == 4 && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numbers && text.parse::<Ipv4Addr>().is_err() {
        return Err(
            "is no IPv4 address: each of its four numbers must be 0 to 255, without leading zeros".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_can_mount_from_is_taken_as_it_is() {
        for good in [
            "nas",
            "nas.example.com",
            "nas.example.com.",
            "NAS_1",
            "_nas",
            "nas-1",
            "büro-nas",
            "10.0.0.1",
            "10.1",
            "fd00::1",
            "[fd00::1]",
            "fe80::1%eth0",
            "[fe80::1%eth0]",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_server_that_can_never_work_is_refused_with_what_to_write() {
        let several = "names several servers, and a volume has one: write one of them, and the others as exports of \
            their own into the file of --config";
        let path = "must be the host name or the address of an NFS server, without a path";
        let letters = "must be the host name or the address of an NFS server: letters, digits, '-' and '.'";
        let rows = [
            ("10.0.0.1,10.0.0.2", several),
            ("nas1 nas2", several),
            ("10.0.0.1:2049", "has a port: write 10.0.0.1, 2049 is the usual one"),
            ("nas:12049", "has a port: write nas, and port=12049 under mountOptions of the StorageClass"),
            ("nas:", "ends with a colon: write nas"),
            ("nas:export", "is neither a host name nor an address: it has colons, and is no IPv6 address"),
            ("fd00::1::2", "is neither a host name nor an address: it has colons, and is no IPv6 address"),
            ("nas:/export", path),
            ("nas/", path),
            ("", path),
            (" nas", path),
            ("nas\n", path),
            ("\"nas\"", "has quotes around it: write nas"),
            ("'10.0.0.1'", "has quotes around it: write 10.0.0.1"),
            ("\"nas", "has quotes around it: write nas"),
            ("<IP>", "is a placeholder: write the server's host name or address in its place"),
            ("<your NFS server>", "is a placeholder: write the server's host name or address in its place"),
            ("[fd00::1", "has one bracket without the other: write fd00::1"),
            ("fd00::1]", "has one bracket without the other: write fd00::1"),
            ("[fd00::1]:2049", "has a port: write fd00::1, 2049 is the usual one"),
            (
                "[fd00::1]:20049",
                "has a port: write fd00::1, and port=20049 under mountOptions of the StorageClass",
            ),
            ("[nas]", "has brackets, which only an IPv6 address has, such as fd00::1"),
            (
                "10.0.0.256",
                "is no IPv4 address: each of its four numbers must be 0 to 255, without leading zeros",
            ),
            ("-nas", letters),
            ("nas..example.com", letters),
            ("$NFS_SERVER", letters),
            ("nas@example.com", letters),
        ];
        for (text, why) in rows {
            assert_eq!(check(text), Err(why.to_owned()), "{text:?}");
        }
    }
}
