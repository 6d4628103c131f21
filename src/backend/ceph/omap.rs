//! The keys and values of an object of RADOS, as `rados listomapvals` prints them: [`read`]. Pure.
//!
//! A value is a dump in hexadecimal, in which rows that are like the one before are left out; so is a key that cannot be printed.

use std::str::Lines;

/// The keys with their values, in their order; `None` where the text is not such a list.
pub fn read(text: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let key = match length(line, "key (", " bytes):") {
            Some(length) => String::from_utf8(dump(&mut lines, length)?).ok()?,
            None => line.to_owned(),
        };
        // A dump of a key ends with an empty line.
        let next = lines.by_ref().find(|line| !line.is_empty())?;
        let length = length(next, "value (", " bytes) :")?;
        found.push((key, dump(&mut lines, length)?));
    }
    Some(found)
}

fn length(line: &str, before: &str, after: &str) -> Option<usize> {
    line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}

/// Rows such as `00000010  2d 78 31 46  |-x1F|`, then the length alone. Nothing at all for no bytes.
fn dump(lines: &mut Lines<'_>, length: usize) -> Option<Vec<u8>> {
    const ROW: usize = 16;
    let mut bytes: Vec<u8> = Vec::new();
    let mut repeated = false;
    if length == 0 {
        return Some(bytes);
    }
    loop {
        let line = lines.next()?;
        if line == "*" {
            repeated = true;
            continue;
        }
        let (offset, row) = line.split_once(' ').unwrap_or((line, ""));
        let offset = usize::from_str_radix(offset, 16).ok().filter(|offset| *offset <= length)?;
        if repeated {
            let last = bytes.get(bytes.len().checked_sub(ROW)?..)?.to_vec();
            while bytes.len() < offset {
                bytes.extend_from_slice(&last);
            }
            repeated = false;
        }
        if bytes.len() != offset {
            return None;
        }
        if offset == length {
            return Some(bytes);
        }
        let hexadecimal = row.split('|').next()?;
        for pair in hexadecimal.split(' ').filter(|pair| !pair.is_empty()) {
            bytes.push(u8::from_str_radix(pair, 16).ok()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::fake::Answer;

    /// As 16.2.15 prints it.
    const PRINTED: &str = "key (3 bytes):
00000000  61 0a 62                                          |a.b|
00000003

value (1 bytes) :
00000000  78                                                |x|
00000001

empty
value (0 bytes) :

id_1
value (100 bytes) :
00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00000060  00 00 7c 20                                       |..| |
00000064

z1
value (16 bytes) :
00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|
00000010

";

    #[test]
    fn keys_and_values_are_read_as_they_were_written() {
        let zeros = [vec![0; 98], b"| ".to_vec()].concat();
        let expected: Vec<(String, Vec<u8>)> = [
            ("a\nb", b"x".to_vec()),
            ("empty", Vec::new()),
            ("id_1", zeros),
            ("z1", b"0123456789abcdef".to_vec()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec();
        assert_eq!(read(PRINTED), Some(expected));
        assert_eq!(read(""), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_such_list_is_not_guessed() {
        for end in [1, 30, 60, 90, 130, 200, 260, 330] {
            let cut = &PRINTED[..end];
            let whole = read(PRINTED).unwrap();
            // Cut between two of them it is a list, of fewer.
            assert!(read(cut).is_none_or(|read| whole.starts_with(&read)), "{end}: {cut}");
        }
        for bad in [
            "id_1\n",
            "id_1\nvalue (3 bytes) :\n00000000  61 62\n00000002\n",
            "id_1\nvalue (1 bytes) :\n00000000  6\n*\n",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_trash_of_a_real_pool_is_read() {
        let Answer::Text(0, text, _) = Answer::recorded("rados-trash") else { panic!() };
        let keys: Vec<String> = read(&text).unwrap().into_iter().map(|(key, _)| key).collect();
        assert!(keys.len() > 2 && keys.iter().all(|key| key.starts_with("id_")), "{keys:?}");
    }
}
