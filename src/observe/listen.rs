//! The socket of probes and metrics: [`Address`] and [`listen`].
//!
//! Which address it is, and what becomes of the process where it is taken, is decided elsewhere.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where probes and metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// This port of every address of the machine, IPv4 and IPv6.
    Every(u16),
    /// This address only.
    At(SocketAddr),
}

impl Address {
    /// The port; 0 where any free one will do.
    pub fn port(self) -> u16 {
        match self {
            Self::Every(port) => port,
            Self::At(address) => address.port(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// Begins to listen. To be called within the runtime.
pub fn listen(address: Address) -> io::Result<TcpListener> {
    match address {
        Address::At(address) => bind(address),
        Address::Every(port) => match bind_to_both_families(port) {
            // That the port is taken, or may not be used, is an error; anything else means that there is no IPv6 here.
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
            {
                bind((Ipv4Addr::UNSPECIFIED, port).into())
            }
            bound => bound,
        },
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// One IPv6 socket that takes IPv4 connections too, whatever `net.ipv6.bindv6only` says.
fn bind_to_both_families(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn every_address_means_both_families() {
        let listener = listen(Address::Every(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), "IPv4");
        // A kernel without IPv6 has the IPv4 socket alone.
        if address.is_ipv6() {
            assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok(), "IPv6");
        } else {
            assert!(Socket::new(Domain::IPV6, Type::STREAM, None).is_err(), "there is IPv6: {address}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_in_one_family_is_reported_as_taken() {
        let other = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let error = listen(Address::Every(port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let error = listen(Address::At((Ipv4Addr::LOCALHOST, port).into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_single_address_is_that_address() {
        let listener = listen(Address::At((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
    }
}
