//! Who calls: [`Credentials`], a user with its [`Key`].
//!
//! Where they come from (Secrets of Kubernetes) is not known here.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::volume::Invalid;

/// A user of a cluster with its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    user: String,
    key: Key,
}

impl Credentials {
    /// `user` is the part behind `client.`, which is removed if present.
    pub fn new(user: &str, key: Key) -> Result<Self, Invalid> {
        let name = user.strip_prefix("client.").unwrap_or(user);
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'$' | b',' | b'=');
        if name.is_empty() || name.len() > 128 || name.starts_with('-') || !name.bytes().all(plain) {
            return Err(Invalid::new(
                "Ceph user",
                user,
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
    /// here says what is wrong without quoting the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not text"))?.trim();
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        if text.contains("[client.") || text.contains("key =") {
            return Err(wrong("is a whole keyring: put only what stands behind \"key =\" into the Secret"));
        }
        match shape(text) {
            Shape::Key => Ok(Self(text.into())),
            Shape::Encoded => Err(wrong(
                "is encoded in base64 once too often: put it into the Secret's stringData, or encode it only once in data",
            )),
            Shape::Else => Err(wrong(
                "is not a key as ceph auth get-key prints it (base64, such as AQ…==): copy it again",
            )),
        }
    }

    /// The key itself. It goes into key files and into Secrets, nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

enum Shape {
    Key,
    /// A key in base64, which is itself base64.
    Encoded,
    Else,
}

fn shape(text: &str) -> Shape {
    let Ok(bytes) = STANDARD.decode(text) else { return Shape::Else };
    if is_key(&bytes) {
        return Shape::Key;
    }
    let twice = std::str::from_utf8(&bytes).ok().and_then(|text| STANDARD.decode(text.trim()).ok());
    if twice.is_some_and(|bytes| is_key(&bytes)) { Shape::Encoded } else { Shape::Else }
}

/// Type, time of creation, length, and as many bytes of secret, little endian.
fn is_key(bytes: &[u8]) -> bool {
    let number =
        |at: usize| bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
    let (Some(kind), Some(length)) = (number(0), number(10)) else { return false };
    kind != 0 && length != 0 && bytes.len() == 12 + usize::from(length)
}

fn wrong(why: &str) -> Invalid {
    Invalid::new("Ceph key", "(not shown)", why)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==";

    #[test]
    fn a_key_is_read_and_never_shown() {
        let key = Key::parse(format!("{KEY}\n").as_bytes()).unwrap();
        assert_eq!(key.reveal(), KEY);
        let credentials = Credentials::new("client.admin", key).unwrap();
        assert_eq!(credentials.user(), "admin");
        assert!(!format!("{credentials:?}").contains("AQ"), "{credentials:?}");
    }

    #[test]
    fn a_key_of_aes_with_256_bits_is_read_and_never_shown() {
        let text = "AgCJZ1hnAAAAACAAcGxhdXNpYmxlLCB3cm9uZywgYW5kIDMyIGJ5dGVzISE=";
        let key = Key::parse(text.as_bytes()).unwrap();
        assert_eq!(key.reveal(), text);
        assert!(!format!("{key:?}").contains("Ag"));
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason_and_not_quoted() {
        let twice = STANDARD.encode(KEY);
        let rows: &[(&str, &[u8], &str)] = &[
            ("nothing", b" \n", "empty"),
            ("no text", b"\xff\xfe", "not text"),
            ("a word", b"secret", "get-key"),
            ("a key that is cut", &KEY.as_bytes()[..36], "get-key"),
            ("base64 of something else", b"aGVsbG8gd29ybGQsIHRoaXMgaXMgbm8ga2V5", "get-key"),
            ("a key encoded twice", twice.as_bytes(), "once too often"),
            (
                "a keyring",
                b"[client.admin]\n\tkey = AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==\n",
                "whole keyring",
            ),
        ];
        for (row, bytes, why) in rows {
            let error = Key::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{row}: {error}");
            assert!(!error.contains("AQB5") && !error.contains("secret\""), "{row}: {error}");
        }
    }

    #[test]
    fn a_user_is_one_word() {
        let user = |name: &str| Credentials::new(name, Key::parse(KEY.as_bytes()).unwrap());
        for good in ["admin", "client.kube", "berth-1.2_x", "k8s.ns.claim"] {
            assert!(user(good).is_ok(), "{good}");
        }
        for bad in ["", "client.", "-c", "a b", "a\n", "a,b", "ü", "a'b"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }
}
