//! The addresses of a cluster's monitors, as they are written: [`Monitors`].
//!
//! Host names stay host names: they are resolved when a program is started, by [`Monitors::resolved`], and nothing is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::volume::{Invalid, fnv1a};

/// The monitors of a cluster: addresses or host names, resolved again whenever a program is started.
///
/// Separated by commas: `host`, `host:port`, `[IPv6]:port`, `v1:host:port`, `v2:host:port`, `[v2:host:port,v1:host:port]`; an
/// IPv6 address stands in brackets where a port follows. What `ceph mon dump` adds behind a slash is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitors {
    text: String,
    monitors: Vec<Vec<Address>>,
}

/// One address of a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    protocol: Option<Protocol>,
    host: Host,
    port: Option<u16>,
}

/// How a monitor is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    V1,
    V2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Where a monitor is to be found, and how it is to be talked to, where that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) protocol: Option<Protocol>,
}

impl Endpoint {
    /// As a person writes it.
    pub(super) fn shown(&self) -> String {
        let Self { address, protocol } = self;
        protocol.map_or_else(|| address.to_string(), |protocol| format!("{protocol}:{address}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Monitors {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// One by one, as they were written.
    pub fn each(&self) -> Vec<String> {
        parts(&self.text).into_iter().map(|monitor| monitor.trim().to_owned()).collect()
    }

    /// Whether both name a monitor in common: the same host and port, as written; names are not resolved.
    pub fn share_one(&self, other: &Self) -> bool {
        !self.endpoints().is_disjoint(&other.endpoints())
    }

    /// The name of a store that is not configured: `mon-` and ten hexadecimal digits that follow from the monitors, in
    /// whatever order they are written.
    pub fn store_name(&self) -> String {
        let endpoints = self.endpoints().into_iter().map(|(host, port)| format!("{host} {port}\n"));
        // Folded: it must be the same for ever, not hard to invert.
        let hash = fnv1a(endpoints.collect::<String>().as_bytes());
        format!("mon-{:010x}", (hash ^ (hash >> 40)) & 0xff_ffff_ffff)
    }

    /// The host names among them.
    pub fn names(&self) -> BTreeSet<&str> {
        let names = self.monitors.iter().flatten().filter_map(|address| match &address.host {
            Host::Name(name) => Some(name.as_str()),
            Host::Ip(_) => None,
        });
        names.collect()
    }

    /// For `-m`: with every name replaced by its addresses, `None` where nothing is left. `msgr_protocols` tells the protocols of addresses
    /// that do not say one.
    pub(super) fn resolved(
        &self,
        addresses_of: impl Fn(&str) -> Vec<IpAddr>,
        msgr_protocols: &BTreeMap<SocketAddr, Protocol>,
    ) -> Option<String> {
        let mut found: Vec<String> = Vec::new();
        for monitor in &self.monitors {
            // All addresses of one monitor; a name that stands for several monitors makes several of it.
            let each: Vec<Vec<IpAddr>> = monitor.iter().map(|one| one.ips(&addresses_of)).collect();
            for i in 0..each.iter().map(Vec::len).max().unwrap_or(0) {
                let one: Vec<String> = monitor
                    .iter()
                    .zip(&each)
                    .filter_map(|(address, ips)| {
                        Some(address.texts(*ips.get(i).or(ips.first())?, msgr_protocols))
                    })
                    .flatten()
                    .collect();
                let text = if one.len() > 1 { format!("[{}]", one.join(",")) } else { one.concat() };
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        }
        (!found.is_empty()).then(|| found.join(","))
    }

    /// Every address at which a monitor may listen.
    pub(super) fn to_ask(&self, addresses_of: impl Fn(&str) -> Vec<IpAddr>) -> Vec<Endpoint> {
        let mut found: Vec<Endpoint> = Vec::new();
        for address in self.monitors.iter().flatten() {
            for ip in address.ips(&addresses_of) {
                for endpoint in address.endpoints(ip) {
                    if !found.contains(&endpoint) {
                        found.push(endpoint);
                    }
                }
            }
        }
        found
    }

    /// Host and port of each address, the ports that are meant where none is written.
    fn endpoints(&self) -> BTreeSet<(String, u16)> {
        let mut endpoints = BTreeSet::new();
        for address in self.monitors.iter().flatten() {
            let host = match &address.host {
                Host::Ip(ip) => ip.to_string(),
                Host::Name(name) => name.clone(),
            };
            endpoints.extend(address.ports().iter().map(|port| (host.clone(), *port)));
        }
        endpoints
    }
}

const LEGACY: u16 = 6789;
const MESSENGER_2: u16 = 3300;

impl Address {
    fn ips(&self, addresses_of: impl Fn(&str) -> Vec<IpAddr>) -> Vec<IpAddr> {
        match &self.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => addresses_of(name),
        }
    }

    /// The ports that are meant.
    fn ports(&self) -> Vec<u16> {
        match (self.port, self.protocol) {
            (Some(port), _) => vec![port],
            (None, Some(Protocol::V1)) => vec![LEGACY],
            (None, Some(Protocol::V2)) => vec![MESSENGER_2],
            (None, None) => vec![MESSENGER_2, LEGACY],
        }
    }

    fn endpoints(&self, ip: IpAddr) -> Vec<Endpoint> {
        let endpoint = |port: &u16| Endpoint { address: (ip, *port).into(), protocol: self.protocol };
        self.ports().iter().map(endpoint).collect()
    }

    /// As the programs read it: with the protocols that are spoken there, where it does not say one itself.
    fn texts(&self, ip: IpAddr, msgr_protocols: &BTreeMap<SocketAddr, Protocol>) -> Vec<String> {
        if self.protocol.is_none() {
            let known = self.endpoints(ip).into_iter().filter_map(|endpoint| {
                let protocol = msgr_protocols.get(&endpoint.address)?;
                Some(format!("{protocol}:{}", endpoint.address))
            });
            let known: Vec<String> = known.collect();
            if !known.is_empty() {
                return known;
            }
        }
        vec![self.shown(ip)]
    }

    fn shown(&self, ip: IpAddr) -> String {
        let host = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let (protocol, default) = match self.protocol {
            Some(Protocol::V1) => ("v1:", Some(LEGACY)),
            Some(Protocol::V2) => ("v2:", Some(MESSENGER_2)),
            None => ("", None),
        };
        match self.port.or(default) {
            Some(port) => format!("{protocol}{host}:{port}"),
            None => format!("{protocol}{host}"),
        }
    }
}

impl FromStr for Monitors {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |part: &str, why: &str| {
            let forms = "write host, host:port, [IPv6]:port, v1:host:port, v2:host:port or [v2:host:port,v1:host:port], separated by commas";
            let shown: String = text.chars().take(200).collect();
            Invalid::new("monitors", shown, format!("{why} in {part:?}; {forms}"))
        };
        let mut monitors = Vec::new();
        for part in parts(text) {
            let part = part.trim();
            let inner = part.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let several = inner.filter(|inner| inner.starts_with("v1:") || inner.starts_with("v2:"));
            let addresses: Vec<&str> = several.map_or_else(|| vec![part], |inner| inner.split(',').collect());
            let read = addresses.into_iter().map(|one| address(one.trim()).map_err(|why| wrong(one, why)));
            monitors.push(read.collect::<Result<Vec<_>, _>>()?);
        }
        if monitors.is_empty() {
            let why = "names no monitor: write at least one address or host name, such as 10.0.0.1:6789";
            return Err(Invalid::new("monitors", text, why));
        }
        Ok(Self { text: text.trim().to_owned(), monitors })
    }
}

impl fmt::Display for Monitors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The parts between the commas that are not in brackets; empty ones are left out, as Ceph does.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = text.split(move |c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(c, ',' | ';' | ' ' | '\n' | '\t')
    });
    parts.filter(|part| !part.trim().is_empty()).collect()
}

fn address(text: &str) -> Result<Address, &'static str> {
    // `10.0.0.1:6789/0`: a number that tells one start of a monitor from the next.
    let text = match text.rsplit_once('/') {
        Some((address, nonce)) if nonce.bytes().all(|b| b.is_ascii_digit()) && !nonce.is_empty() => address,
        Some(_) => return Err("there is a '/'"),
        None => text,
    };
    let (protocol, rest) = match text.split_once(':') {
        Some(("v1", rest)) => (Some(Protocol::V1), rest),
        Some(("v2", rest)) => (Some(Protocol::V2), rest),
        Some(_) | None => (None, text),
    };
    if let Ok(ip) = rest.parse::<IpAddr>() {
        return Ok(Address { protocol, host: Host::Ip(ip), port: None });
    }
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (ip, behind) = bracketed.split_once(']').ok_or("a bracket is not closed")?;
        let ip = ip.parse().map_err(|_| "there is no IPv6 address between the brackets")?;
        let port = match behind {
            "" => None,
            behind => Some(port(behind.strip_prefix(':').ok_or("something follows the brackets")?)?),
        };
        return Ok(Address { protocol, host: Host::Ip(ip), port });
    }
    let (host, port) = match rest.split_once(':') {
        Some((host, text)) => (host, Some(port(text)?)),
        None => (rest, None),
    };
    let host = match host.parse() {
        Ok(ip) => Host::Ip(ip),
        Err(_) => Host::Name(name(host)?),
    };
    Ok(Address { protocol, host, port })
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port != 0).ok_or("the port is not a number from 1 to 65535")
}

/// A host name in lower case. It becomes part of an argument, so that it must not look like anything else.
fn name(text: &str) -> Result<String, &'static str> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err("there is neither an IP address nor a host name");
    }
    if text.len() > 253 || !text.strip_suffix('.').unwrap_or(text).split('.').all(label) {
        return Err("the host is neither an IP address nor a host name");
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Monitors {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Proves: rbd 11
    #[test]
    fn every_way_of_writing_monitors_becomes_one_that_the_tools_read() {
        let names = |name: &str| -> Vec<IpAddr> {
            match name {
                "mon" => vec!["10.0.0.9".parse().unwrap()],
                "mons" => vec!["10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap()],
                "six" => vec!["fd00::1".parse().unwrap()],
                _ => Vec::new(),
            }
        };
        let rows = [
            ("an address", "10.0.0.1", Some("10.0.0.1")),
            (
                "several, as the old classes have them",
                "10.0.0.1:6789, 10.0.0.2:6789",
                Some("10.0.0.1:6789,10.0.0.2:6789"),
            ),
            ("a comma too many", "10.0.0.1:6789,,", Some("10.0.0.1:6789")),
            ("semicolons, as Ceph allows", "10.0.0.1;10.0.0.2", Some("10.0.0.1,10.0.0.2")),
            (
                "with a protocol",
                "v1:10.0.0.1:6789,v2:10.0.0.2:3300",
                Some("v1:10.0.0.1:6789,v2:10.0.0.2:3300"),
            ),
            ("with a protocol and no port", "v2:10.0.0.2", Some("v2:10.0.0.2:3300")),
            (
                "both protocols",
                "[v2:10.0.0.1:3300,v1:10.0.0.1:6789],10.0.0.2",
                Some("[v2:10.0.0.1:3300,v1:10.0.0.1:6789],10.0.0.2"),
            ),
            (
                "as mon dump prints it",
                "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]",
                Some("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"),
            ),
            (
                "IPv6",
                "fd00::2,[fd00::3]:6789,v2:[fd00::4]:3300",
                Some("[fd00::2],[fd00::3]:6789,v2:[fd00::4]:3300"),
            ),
            ("a name", "MON:6789", Some("10.0.0.9:6789")),
            ("a name with a protocol", "v1:mon:6789", Some("v1:10.0.0.9:6789")),
            ("a name of several monitors", "mons:6789", Some("10.0.0.7:6789,10.0.0.8:6789")),
            (
                "a name of several, both protocols",
                "[v2:mons:3300,v1:mons:6789]",
                Some("[v2:10.0.0.7:3300,v1:10.0.0.7:6789],[v2:10.0.0.8:3300,v1:10.0.0.8:6789]"),
            ),
            ("a name of an IPv6 address", "six:6789", Some("[fd00::1]:6789")),
            ("a name that is unknown beside an address", "nobody,10.0.0.1", Some("10.0.0.1")),
            ("a name that is unknown", "nobody:6789", None),
        ];
        for (row, text, expected) in rows {
            assert_eq!(read(text).resolved(names, &BTreeMap::new()).as_deref(), expected, "{row}");
        }
    }

    #[test]
    fn what_names_no_monitor_is_refused_with_the_forms() {
        for bad in [
            "",
            " , ",
            "10.0.0.1:x",
            "10.0.0.1:0",
            "10.0.0.1:70000",
            "300.1.1.1",
            "a b/c",
            "[fd00::1",
            "[x]:1",
            "[fd00::1]6789",
            "--id=x",
            "-m",
            "v3:10.0.0.1:1:2",
            "host:1:2",
            "a$b",
            "[v2:10.0.0.1:3300,--x]",
            "10.0.0.1/16x",
        ] {
            let error = bad.parse::<Monitors>().unwrap_err().to_string();
            assert!(error.contains("monitors"), "{bad:?}: {error}");
            // Where nothing at all is written, one example is enough.
            let forms = ["host:port", "[IPv6]:port", "v1:host:port", "[v2:host:port,v1:host:port]"];
            let empty = bad.replace(',', "").trim().is_empty();
            assert!(empty || forms.iter().all(|form| error.contains(form)), "{bad:?}: {error}");
        }
    }

    #[test]
    fn an_address_without_a_protocol_is_written_with_the_one_that_is_spoken_there() {
        let names = |_: &str| vec!["10.0.0.9".parse().unwrap()];
        let msgr_protocols = BTreeMap::from([
            ("10.0.0.1:7000".parse().unwrap(), Protocol::V1),
            ("10.0.0.2:3300".parse().unwrap(), Protocol::V2),
            ("10.0.0.9:6789".parse().unwrap(), Protocol::V1),
            ("10.0.0.9:3300".parse().unwrap(), Protocol::V2),
            ("[fd00::1]:7000".parse().unwrap(), Protocol::V1),
        ]);
        let rows = [
            ("10.0.0.1:7000", "v1:10.0.0.1:7000"),
            ("10.0.0.1:7001", "10.0.0.1:7001"),
            ("10.0.0.2,10.0.0.3", "v2:10.0.0.2:3300,10.0.0.3"),
            ("mon", "[v2:10.0.0.9:3300,v1:10.0.0.9:6789]"),
            ("[fd00::1]:7000", "v1:[fd00::1]:7000"),
            ("v2:10.0.0.1:7000", "v2:10.0.0.1:7000"),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text).resolved(names, &msgr_protocols).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn each_address_at_which_a_monitor_may_listen_can_be_asked() {
        let names = |_: &str| vec!["10.0.0.9".parse().unwrap()];
        let ask =
            |text: &str| read(text).to_ask(names).iter().map(Endpoint::shown).collect::<Vec<_>>().join(" ");
        assert_eq!(ask("10.0.0.1:7000,10.0.0.1:7000"), "10.0.0.1:7000");
        assert_eq!(ask("mon"), "10.0.0.9:3300 10.0.0.9:6789");
        assert_eq!(ask("[v2:mon:1,v1:[fd00::1]]"), "v2:10.0.0.9:1 v1:[fd00::1]:6789");
    }

    #[test]
    fn an_in_tree_pv_lists_each_monitor() {
        let each = |text: &str| text.parse::<Monitors>().unwrap().each();
        assert_eq!(each("a:6789, b"), ["a:6789", "b"]);
        assert_eq!(each("[v2:a:1,v1:a:2],[fd00::1]:6789,c"), ["[v2:a:1,v1:a:2]", "[fd00::1]:6789", "c"]);
    }

    #[test]
    fn two_texts_share_a_monitor_where_host_and_port_agree() {
        let rows = [
            ("the same", "a:6789", "a:6789", true),
            ("one of several", "a:6789,b:6789", "c:6789,B:6789", true),
            ("without a port both usual ones are meant", "a", "v2:a:3300", true),
            ("by protocol alone", "v1:a", "a:6789", true),
            ("another port is another cluster", "a:6789", "a:6790", false),
            ("another protocol", "v1:a:6789", "v2:a:3300", false),
            ("nothing in common", "a,b", "c,d", false),
        ];
        for (row, one, other, shared) in rows {
            assert_eq!(read(one).share_one(&read(other)), shared, "{row}");
        }
    }

    #[test]
    fn the_store_of_monitors_has_one_name_for_ever() {
        // Volume ids on existing PVs hold it: this text must never change.
        assert_eq!(read("10.0.0.1:6789,10.0.0.2:6789").store_name(), "mon-b01ead6968");
        assert_eq!(
            read("10.0.0.2:6789, 10.0.0.1:6789").store_name(),
            read("10.0.0.1:6789,10.0.0.2:6789").store_name()
        );
        assert_ne!(read("10.0.0.1:6789").store_name(), read("10.0.0.1:6790").store_name());
    }
}
