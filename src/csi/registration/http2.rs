//! The server's half of one HTTP/2 connection, as far as kubelet's registration needs it: [`Connection`]. Bytes in, bytes out.
//!
//! Kubelet's client sends the path of the socket as `:authority`, which the library that serves everything else refuses before
//! anything of ours runs. Here the headers are decoded, and of them only `:path` is looked at. What is too large, or more than
//! one client of this kind would send, ends the connection.

use std::collections::BTreeMap;

use httlib_hpack::Decoder;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The size of a frame that every peer may send.
const LARGEST_FRAME: usize = 16 * 1024;
const LARGEST_HEADERS: usize = 16 * 1024;
const LARGEST_BODY: usize = 64 * 1024;
const MOST_STREAMS: usize = 16;
/// What every connection has by default, and what we hold it to.
const HEADER_TABLE: u32 = 4096;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// This message.
    Message(Vec<u8>),
    /// A gRPC status code other than 0, and what it means.
    Status(u8, &'static str),
}

/// Why the connection is at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The client says so.
    Closed,
    /// The client did what is not allowed.
    Wrong(&'static str),
}

/// One connection.
pub(super) struct Connection {
    input: Vec<u8>,
    greeted: bool,
    decoder: Decoder<'static>,
    streams: BTreeMap<u32, Stream>,
    /// The stream whose headers go on in the next frame, and what there is of them.
    block: Option<(u32, bool, Vec<u8>)>,
    newest: u32,
}

#[derive(Default)]
struct Stream {
    path: String,
    body: Vec<u8>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            input: Vec::new(),
            greeted: false,
            decoder: Decoder::with_dynamic_size(HEADER_TABLE),
            streams: BTreeMap::new(),
            block: None,
            newest: 0,
        }
    }

    /// Takes what was read; puts what is to be written behind `output`. Each complete call is answered by `handle`, from its path
    /// and its message.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        output: &mut Vec<u8>,
        handle: &mut dyn FnMut(&str, &[u8]) -> Reply,
    ) -> Result<(), End> {
        self.input.extend_from_slice(bytes);
        if !self.greeted {
            let length = self.input.len().min(PREFACE.len());
            if self.input.get(..length) != PREFACE.get(..length) {
                return Err(End::Wrong("the client does not speak HTTP/2"));
            }
            if length < PREFACE.len() {
                return Ok(());
            }
            self.input.drain(..PREFACE.len());
            self.greeted = true;
            frame(output, SETTINGS, 0, 0, &[]);
        }
        while let Some(next) = self.next_frame()? {
            self.on_frame(next, output, handle)?;
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, End> {
        let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = self.input.first_chunk::<9>() else {
            return Ok(None);
        };
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > LARGEST_FRAME {
            return Err(End::Wrong("a frame is too large"));
        }
        let Some(payload) = self.input.get(9..9 + length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.input.drain(..9 + length);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        Ok(Some(Frame { kind, flags, stream, payload }))
    }

    fn on_frame(
        &mut self,
        next: Frame,
        output: &mut Vec<u8>,
        handle: &mut dyn FnMut(&str, &[u8]) -> Reply,
    ) -> Result<(), End> {
        let Frame { kind, flags, stream, payload } = next;
        if self.block.is_some() && kind != CONTINUATION {
            return Err(End::Wrong("headers are not continued"));
        }
        match kind {
            SETTINGS if flags & ACK == 0 => frame(output, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(output, PING, ACK, 0, &payload),
            GOAWAY => return Err(End::Closed),
            PUSH_PROMISE => return Err(End::Wrong("a client cannot push")),
            RST_STREAM => {
                self.streams.remove(&stream);
            }
            HEADERS => {
                let mut block = unpadded(flags, payload)?;
                if flags & PRIORITY != 0 {
                    block.drain(..block.len().min(5));
                }
                self.on_headers(stream, flags, block, output, handle)?;
            }
            CONTINUATION => {
                let Some((begun, ends, mut block)) = self.block.take() else {
                    return Err(End::Wrong("headers are continued that did not begin"));
                };
                if begun != stream {
                    return Err(End::Wrong("headers of another stream are continued"));
                }
                block.extend(payload);
                let flags = flags & END_HEADERS | if ends { END_STREAM } else { 0 };
                self.on_headers(stream, flags, block, output, handle)?;
            }
            DATA => {
                let room = u32::try_from(payload.len()).unwrap_or_default();
                if room > 0 {
                    // Whatever was read may be sent again.
                    frame(output, WINDOW_UPDATE, 0, 0, &room.to_be_bytes());
                }
                let data = unpadded(flags, payload)?;
                let Some(open) = self.streams.get_mut(&stream) else { return Ok(()) };
                open.body.extend(data);
                if open.body.len() > LARGEST_BODY {
                    return Err(End::Wrong("a message is too large"));
                }
                if flags & END_STREAM != 0 {
                    self.answer(stream, output, handle);
                }
            }
            // WINDOW_UPDATE, PRIORITY, and what is unknown: nothing of ours is large or has a rank.
            _ => {}
        }
        Ok(())
    }

    /// All headers of a stream so far; its end, where they are complete.
    fn on_headers(
        &mut self,
        stream: u32,
        flags: u8,
        mut block: Vec<u8>,
        output: &mut Vec<u8>,
        handle: &mut dyn FnMut(&str, &[u8]) -> Reply,
    ) -> Result<(), End> {
        let ends = flags & END_STREAM != 0;
        if block.len() > LARGEST_HEADERS {
            return Err(End::Wrong("the headers are too large"));
        }
        if flags & END_HEADERS == 0 {
            self.block = Some((stream, ends, block));
            return Ok(());
        }
        let mut headers = Vec::new();
        // Also those of a stream that is refused: later ones may refer to them.
        self.decoder
            .decode(&mut block, &mut headers)
            .map_err(|_| End::Wrong("the headers cannot be decoded"))?;
        if stream > self.newest {
            self.newest = stream;
            if self.streams.len() >= MOST_STREAMS {
                return Err(End::Wrong("too many calls at once"));
            }
            let path = headers.iter().find(|(name, ..)| name == b":path");
            let path =
                path.map(|(_, value, _)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
            self.streams.insert(stream, Stream { path, body: Vec::new() });
        }
        if ends {
            self.answer(stream, output, handle);
        }
        Ok(())
    }

    fn answer(&mut self, stream: u32, output: &mut Vec<u8>, handle: &mut dyn FnMut(&str, &[u8]) -> Reply) {
        let Some(Stream { path, body }) = self.streams.remove(&stream) else { return };
        let reply = match message(&body) {
            Some(message) => handle(&path, message),
            None => Reply::Status(13, "the message is not framed as gRPC frames it, or is compressed"),
        };
        // `:status 200` of the static table, and a literal that enters no table.
        let mut headers = vec![0x88];
        literal(&mut headers, "content-type", "application/grpc");
        match reply {
            Reply::Message(message) => {
                let mut body = vec![0];
                body.extend(u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
                body.extend(message);
                let mut trailers = Vec::new();
                literal(&mut trailers, "grpc-status", "0");
                frame(output, HEADERS, END_HEADERS, stream, &headers);
                frame(output, DATA, 0, stream, &body);
                frame(output, HEADERS, END_HEADERS | END_STREAM, stream, &trailers);
            }
            Reply::Status(code, told) => {
                literal(&mut headers, "grpc-status", &code.to_string());
                literal(&mut headers, "grpc-message", told);
                frame(output, HEADERS, END_HEADERS | END_STREAM, stream, &headers);
            }
        }
    }
}

/// The one message of a call. A call without a body has the empty one.
fn message(body: &[u8]) -> Option<&[u8]> {
    if body.is_empty() {
        return Some(body);
    }
    let ([0, length @ ..], message) = body.split_first_chunk::<5>()? else { return None };
    (usize::try_from(u32::from_be_bytes(*length)).ok()? == message.len()).then_some(message)
}

fn unpadded(flags: u8, mut payload: Vec<u8>) -> Result<Vec<u8>, End> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let pads = payload.first().copied().map(usize::from).ok_or(End::Wrong("a frame has no padding"))?;
    if pads >= payload.len() {
        return Err(End::Wrong("a frame has more padding than bytes"));
    }
    payload.truncate(payload.len() - pads);
    payload.remove(0);
    Ok(payload)
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    // Nothing of ours is longer than a frame.
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    output.extend(length);
    output.extend([kind, flags]);
    output.extend(stream.to_be_bytes());
    output.extend(payload);
}

/// A header of less than 127 bytes each, without Huffman.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len().min(126)).unwrap_or_default());
        block.extend(text.bytes().take(126));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            found.push((head[3], head[4], stream, rest[..length].to_vec()));
            bytes = &rest[length..];
        }
        found
    }

    fn call(stream: u32, headers: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, HEADERS, END_HEADERS, stream, headers);
        frame(&mut bytes, DATA, END_STREAM, stream, body);
        bytes
    }

    /// `:method POST`, `:scheme http`, `:path`, `:authority` as grpc-go sends it over a unix socket: a path with `%2F`.
    fn headers(path: &str) -> Vec<u8> {
        let mut block = vec![0x83, 0x86];
        for (index, text) in [(0x44, path), (0x41, "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx-reg.sock")]
        {
            block.push(index);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
        block
    }

    fn echo(path: &str, message: &[u8]) -> Reply {
        match path {
            "/a/B" => Reply::Message(message.to_vec()),
            _ => Reply::Status(12, "unknown"),
        }
    }

    fn greeting() -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        bytes
    }

    /// Kubelet's registration calls were refused before anything of ours ran.
    #[test]
    fn a_call_with_the_path_of_the_socket_as_authority_is_answered() {
        let bytes = [greeting(), call(1, &headers("/a/B"), &[0, 0, 0, 0, 2, b'h', b'i'])].concat();
        // Whatever the parts are in which it comes.
        for size in [1, 7, bytes.len()] {
            let (mut connection, mut output) = (Connection::new(), Vec::new());
            for part in bytes.chunks(size) {
                connection.take(part, &mut output, &mut echo).unwrap();
            }
            let answered = frames(&output);
            let kinds: Vec<_> =
                answered.iter().map(|(kind, flags, stream, _)| (*kind, *flags, *stream)).collect();
            let expected = [
                (SETTINGS, 0, 0),
                (SETTINGS, ACK, 0),
                (WINDOW_UPDATE, 0, 0),
                (HEADERS, END_HEADERS, 1),
                (DATA, 0, 1),
                (HEADERS, END_HEADERS | END_STREAM, 1),
            ];
            assert_eq!(kinds, expected);
            assert_eq!(answered[4].3, [0, 0, 0, 0, 2, b'h', b'i']);
        }
    }

    #[test]
    fn headers_of_a_second_call_may_refer_to_those_of_the_first() {
        let (mut connection, mut output) = (Connection::new(), Vec::new());
        connection.take(&greeting(), &mut output, &mut echo).unwrap();
        connection.take(&call(1, &headers("/a/B"), &[]), &mut output, &mut echo).unwrap();
        // 62 is the newest entry of the dynamic table: the authority; 63 the path.
        output.clear();
        connection.take(&call(3, &[0x83, 0x86, 0xbf, 0xbe], &[]), &mut output, &mut echo).unwrap();
        assert_eq!(
            frames(&output).iter().filter(|(kind, _, stream, _)| (*kind, *stream) == (DATA, 3)).count(),
            1
        );
    }

    #[test]
    fn what_is_unknown_or_broken_gets_a_status() {
        let (mut connection, mut output) = (Connection::new(), Vec::new());
        connection.take(&greeting(), &mut output, &mut echo).unwrap();
        for (stream, path, body, status) in
            [(1, "/x/Y", &[][..], "12"), (3, "/a/B", &[1, 0, 0, 0, 0][..], "13")]
        {
            output.clear();
            connection.take(&call(stream, &headers(path), body), &mut output, &mut echo).unwrap();
            let (kind, flags, _, block) = frames(&output).pop().unwrap();
            assert_eq!((kind, flags), (HEADERS, END_HEADERS | END_STREAM));
            let mut expected = Vec::new();
            literal(&mut expected, "grpc-status", status);
            assert!(block.windows(expected.len()).any(|part| part == expected));
        }
    }

    #[test]
    fn pings_are_answered_and_split_and_padded_headers_understood() {
        let (mut connection, mut output) = (Connection::new(), Vec::new());
        connection.take(&greeting(), &mut output, &mut echo).unwrap();
        output.clear();
        let mut bytes = Vec::new();
        frame(&mut bytes, PING, 0, 0, b"12345678");
        let block = headers("/a/B");
        let (first, second) = block.split_at(5);
        let mut padded = vec![2, 0, 0, 0, 0, 0];
        padded.extend(first);
        padded.extend([0, 0]);
        frame(&mut bytes, HEADERS, END_STREAM | PADDED | PRIORITY, 1, &padded);
        frame(&mut bytes, CONTINUATION, END_HEADERS, 1, second);
        connection.take(&bytes, &mut output, &mut echo).unwrap();
        let answered = frames(&output);
        assert_eq!((answered[0].0, answered[0].1, answered[0].3.as_slice()), (PING, ACK, &b"12345678"[..]));
        assert_eq!(answered.last().unwrap().2, 1);
    }

    #[test]
    fn what_is_not_allowed_ends_the_connection() {
        let mut large = Vec::new();
        large.extend(from_hex("ff ff ff 00 00 00 00 00 01"));
        let mut unended = Vec::new();
        frame(&mut unended, HEADERS, 0, 1, &[0x83]);
        frame(&mut unended, PING, 0, 0, &[0; 8]);
        let mut goaway = Vec::new();
        frame(&mut goaway, GOAWAY, 0, 0, &[0; 8]);
        let mut crowd = Vec::new();
        for number in 0..20 {
            frame(&mut crowd, HEADERS, END_HEADERS, 2 * number + 1, &headers("/a/B"));
        }
        let mut continued = Vec::new();
        frame(&mut continued, CONTINUATION, END_HEADERS, 1, &[0x83]);
        for (row, bytes) in
            [("size", large), ("order", unended), ("streams", crowd), ("continued", continued)]
        {
            let mut connection = Connection::new();
            let ended = connection.take(&[greeting(), bytes].concat(), &mut Vec::new(), &mut echo);
            assert!(matches!(ended, Err(End::Wrong(_))), "{row}: {ended:?}");
        }
        let ended = Connection::new().take(&[greeting(), goaway].concat(), &mut Vec::new(), &mut echo);
        assert_eq!(ended, Err(End::Closed));
        assert!(Connection::new().take(b"GET / HTTP/1.1\r\n", &mut Vec::new(), &mut echo).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Connection::new().take(&[greeting(), bytes].concat(), &mut Vec::new(), &mut echo);
        }
    }
}
