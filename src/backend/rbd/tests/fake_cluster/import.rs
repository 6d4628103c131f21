//! Reads the stream of an import: [`Stream`], written apart from the code that writes it.

/// What an import reads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) features: u64,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) size: u64,
}

impl Stream {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"rbd image v2\n")?;
        let mut stream = Self::default();
        let mut header = true;
        loop {
            let (tag, behind) = rest.split_first()?;
            if (*tag, header) == (b'E', true) {
                rest = behind.strip_prefix(b"rbd image diffs v2\n")?;
                rest = rest.strip_prefix(&1_u64.to_le_bytes())?.strip_prefix(b"rbd diff v2\n")?;
                header = false;
                continue;
            }
            if (*tag, header) == (b'e', false) {
                return behind.is_empty().then_some(stream);
            }
            let (length, behind) = behind.split_first_chunk::<8>()?;
            let (content, behind) =
                behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            rest = behind;
            let number = || Some(u64::from_le_bytes(content.try_into().ok()?));
            match (*tag, header) {
                (b'O', true) => (number()? == 22).then_some(())?,
                (b'T', true) => stream.features = number()?,
                (b's', false) => stream.size = number()?,
                (b'M', true) => {
                    let (key, behind) = text(content)?;
                    let (value, behind) = text(behind)?;
                    behind.is_empty().then(|| stream.metadata.push((key, value)))?;
                }
                _ => return None,
            }
        }
    }
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, behind) = bytes.split_first_chunk::<4>()?;
    let (text, behind) = behind.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((String::from_utf8(text.to_vec()).ok()?, behind))
}
