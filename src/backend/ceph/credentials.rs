//! Who calls: [`Credentials`], a user with its [`Key`].
//!
//! Where they come from (Secrets of Kubernetes) is not known here.

use std::fmt;

use crate::volume::Invalid;

/// A user of a cluster with its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    user: String,
    key: Key,
}

impl Credentials {
    /// `user` is the part behind `client.`, which is taken off where somebody wrote it.
    pub fn new(user: &str, key: Key) -> Result<Self, Invalid> {
        let name = user.strip_prefix("client.").unwrap_or(user);
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'$' | b',' | b'=');
        if name.is_empty() || name.len() > 128 || name.starts_with('-') || !name.bytes().all(plain) {
            return Err(Invalid::new(
                "Ceph user",
                user.chars().take(80).collect::<String>(),
                "must be the name behind \"client.\", such as admin: 1 to 128 visible ASCII characters without quotes, \
                 '\\', '$', ',' and '=', not beginning with '-'",
            ));
        }
        Ok(Self { user: name.to_owned(), key })
    }

    /// The user's name, without `client.`.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The user's key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// A `CephX` key: base64, as `ceph auth get-key` prints it. Its Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Reads a key as it lies in a Secret; white space around it is left out. Refuses what Ceph could not decode: an error
    /// here names what is wrong without quoting the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not text"))?;
        Ok(Self(text.trim().into()))
    }

    /// The key itself. It goes into key files and into Secrets, nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

fn wrong(why: &str) -> Invalid {
    Invalid::new("Ceph key", "(not shown)", why)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}
