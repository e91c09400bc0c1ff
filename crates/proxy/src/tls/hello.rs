//! The first message of a client of TLS: read as far as it tells the server's name, and never answered.
//!
//! It may come in any number of records and packets. What two readers could understand differently is no hello: a name twice, lengths that
//! do not add up, other records in between.

/// Longest hello, bytes.
pub const HELLO_MAX: usize = 64 << 10;
/// Longest part of it in one record.
const RECORD_MAX: usize = 1 << 14;
/// Number of a record that carries parts of the handshake.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const NAME_MAX: usize = 255;

/// What a hello tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server that the client wants, in lower case and without a dot at its end.
    pub server_name: Option<String>,
}

/// It does not begin as TLS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no hello of TLS")]
pub struct NoHello;

/// Puts a hello together from what comes.
#[derive(Debug, Default)]
pub struct Reader {
    /// Head of the record that comes.
    head: Vec<u8>,
    /// Bytes of it that are still to come.
    left: usize,
    message: Vec<u8>,
}

impl Reader {
    /// Takes what came next; the hello once it is whole.
    ///
    /// # Errors
    /// It is none, or is too long.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, NoHello> {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.head(&mut bytes)?;
                continue;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.message.extend_from_slice(part);
            self.left -= part.len();
            bytes = rest;
            if let Some(body) = whole(&self.message)? {
                return read(body).ok_or(NoHello).map(Some);
            }
        }
        Ok(None)
    }

    /// Takes as much as belongs to the head of a record.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<(), NoHello> {
        let (part, rest) = bytes.split_at((5 - self.head.len()).min(bytes.len()));
        self.head.extend_from_slice(part);
        *bytes = rest;
        // What is no TLS is told by its first byte: nobody waits for more of it.
        let begins = match self.head.as_slice() {
            [kind] => *kind == HANDSHAKE,
            [kind, major, ..] => *kind == HANDSHAKE && *major == 3,
            [] => true,
        };
        if !begins {
            return Err(NoHello);
        }
        if let [_, _, _, high, low] = *self.head.as_slice() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length == 0 || length > RECORD_MAX {
                return Err(NoHello);
            }
            self.left = length;
            self.head.clear();
        }
        Ok(())
    }
}

/// The body of the message, once all of it is there.
fn whole(message: &[u8]) -> Result<Option<&[u8]>, NoHello> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(NoHello);
    }
    let [_, a, b, c, body @ ..] = message else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if length > HELLO_MAX {
        return Err(NoHello);
    }
    Ok(body.get(..length))
}

fn read(body: &[u8]) -> Option<Hello> {
    let mut rest = body.get(2 + 32..)?;
    vector(&mut rest, 1)?;
    vector(&mut rest, 2)?;
    vector(&mut rest, 1)?;
    let mut hello = Hello::default();
    if rest.is_empty() {
        return Some(hello);
    }
    let mut extensions = vector(&mut rest, 2)?;
    if !rest.is_empty() {
        return None;
    }
    while !extensions.is_empty() {
        let kind = number(&mut extensions, 2)?;
        let data = vector(&mut extensions, 2)?;
        if kind == usize::from(SERVER_NAME) {
            let before = hello.server_name.replace(server_name(data)?);
            if before.is_some() {
                return None;
            }
        }
    }
    Some(hello)
}

/// The one name of the extension.
fn server_name(mut data: &[u8]) -> Option<String> {
    let mut list = vector(&mut data, 2)?;
    let kind = number(&mut list, 1)?;
    let name = vector(&mut list, 2)?;
    if kind != usize::from(HOST_NAME) || !list.is_empty() || !data.is_empty() {
        return None;
    }
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if name.is_empty() || name.len() > NAME_MAX || !name.iter().all(known) {
        return None;
    }
    Some(crate::policy::canonical(std::str::from_utf8(name).ok()?))
}

/// A number of so many bytes.
fn number(bytes: &mut &[u8], size: usize) -> Option<usize> {
    let (number, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some(
        number
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
    )
}

/// What stands behind its length, which has so many bytes.
fn vector<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let length = number(bytes, size)?;
    let (data, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(size: usize, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_be_bytes();
        [&length[4 - size..], data].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), sized(2, data)].concat()
    }

    fn name(text: &str) -> Vec<u8> {
        let entry = [vec![HOST_NAME], sized(2, text.as_bytes())].concat();
        extension(SERVER_NAME, &sized(2, &entry))
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3; 34];
        body.extend(sized(1, &[1; 32]));
        body.extend(sized(2, &[0x13, 1]));
        body.extend(sized(1, &[0]));
        body.extend(sized(2, extensions));
        [vec![CLIENT_HELLO], sized(3, &body)].concat()
    }

    fn records(message: &[u8], each: usize) -> Vec<u8> {
        let record = |part| [vec![HANDSHAKE, 3, 1], sized(2, part)].concat();
        message.chunks(each).flat_map(record).collect()
    }

    fn asked(bytes: &[u8]) -> Result<Option<Hello>, NoHello> {
        Reader::default().push(bytes)
    }

    fn named(text: &str) -> Hello {
        Hello {
            server_name: Some(text.to_owned()),
        }
    }

    #[test]
    fn names_are_found_however_the_hello_is_cut() {
        let padding = extension(21, &[0; 3000]);
        let message = message(
            &[
                extension(43, &[2, 3, 4]),
                name("Shop.Example.ORG."),
                padding,
            ]
            .concat(),
        );
        let whole = named("shop.example.org");
        for each in [1, 5, 100, RECORD_MAX] {
            let bytes = records(&message, each);
            assert_eq!(asked(&bytes), Ok(Some(whole.clone())), "{each}");
            let mut reader = Reader::default();
            let (last, before) = bytes.split_last().unwrap();
            for byte in before {
                assert_eq!(reader.push(&[*byte]), Ok(None));
            }
            assert_eq!(reader.push(&[*last]), Ok(Some(whole.clone())));
        }
        let without = records(&super::tests::message(&extension(43, &[2, 3, 4])), 4096);
        assert_eq!(asked(&without), Ok(Some(Hello::default())));
        let [mut old, ..] = [vec![3_u8; 34]];
        old.extend([0, 0, 2, 0, 47, 1, 0]);
        let old = [vec![CLIENT_HELLO], sized(3, &old)].concat();
        assert_eq!(asked(&records(&old, 99)), Ok(Some(Hello::default())));
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_no_hello() {
        let twice = [name("a.org"), name("b.org")].concat();
        let two = {
            let entry = |text: &str| [vec![HOST_NAME], sized(2, text.as_bytes())].concat();
            extension(
                SERVER_NAME,
                &sized(2, &[entry("a.org"), entry("b.org")].concat()),
            )
        };
        let table = [
            twice,
            two,
            name(""),
            name("a b.org"),
            name("a\0.org"),
            name("ä.org"),
            name(&"a".repeat(256)),
            extension(SERVER_NAME, &[]),
            vec![0, 0, 0, 9, 1],
        ];
        for extensions in table {
            let bytes = records(&message(&extensions), 4096);
            assert_eq!(asked(&bytes), Err(NoHello), "{extensions:?}");
        }
        let good = message(&name("a.org"));
        let mut longer = records(&good, 20);
        // An empty record, and one of another kind, in its midst.
        longer.splice(25..25, [HANDSHAKE, 3, 1, 0, 0]);
        assert_eq!(asked(&longer), Err(NoHello));
        let mut other = records(&good, 20);
        other.splice(25..25, [21, 3, 1, 0, 2, 1, 0]);
        assert_eq!(asked(&other), Err(NoHello));
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            &[0x80, 0x2e, 1, 3, 1],
            &[22, 2],
            &[22, 3, 1, 0x40, 1],
            &[22, 3, 1, 0, 4, 2],
        ] {
            assert_eq!(asked(bytes), Err(NoHello), "{bytes:?}");
        }
        assert_eq!(asked(&[22, 3, 1, 0, 4, 1, 1, 0, 1]), Err(NoHello), "65 KiB");
        assert_eq!(asked(&[22, 3, 1, 0, 4, 1, 0, 0xff]), Ok(None));
    }
}
