//! The types that Kafka's messages are made of, read without copying and written. Versions from some number on are "flexible":
//! lengths are written short, and each structure ends with a list of tagged fields.
use std::fmt;

/// Bytes that are no such message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are no such message")
    }
}

impl std::error::Error for Malformed {}

type Result<T> = std::result::Result<T, Malformed>;

/// Reads from the front of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    pub(super) flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self {
            rest: bytes,
            flexible,
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn i16(&mut self) -> Result<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub(super) fn skip(&mut self, length: usize) -> Result<()> {
        self.take(length).map(drop)
    }

    fn varint(&mut self) -> Result<u32> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            value |= u32::from(byte & 0x7f)
                .checked_shl(shift)
                .filter(|_| shift < 28 || byte < 16)
                .ok_or(Malformed)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A length in one of the two ways; `None`: there is nothing at all.
    fn length(&mut self, short: bool) -> Result<Option<usize>> {
        let length = if self.flexible {
            i64::from(self.varint()?) - 1
        } else if short {
            i64::from(self.i16()?)
        } else {
            i64::from(self.i32()?)
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Malformed),
        }
    }

    pub(super) fn nullable(&mut self) -> Result<Option<&'a str>> {
        let Some(length) = self.length(true)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.take(length)?);
        text.map(Some).map_err(|_| Malformed)
    }

    pub(super) fn string(&mut self) -> Result<&'a str> {
        self.nullable()?.ok_or(Malformed)
    }

    /// Bytes that nobody looks at.
    pub(super) fn skip_bytes(&mut self) -> Result<()> {
        let length = self.length(false)?.unwrap_or(0);
        self.skip(length)
    }

    /// Elements of an array; `None`: there is no array. Never more than there are bytes left.
    pub(super) fn array(&mut self) -> Result<Option<usize>> {
        let count = self.length(false)?;
        if count.is_some_and(|count| count > self.rest.len()) {
            return Err(Malformed);
        }
        Ok(count)
    }

    pub(super) fn tags(&mut self) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.skip(length as usize)?;
        }
        Ok(())
    }
}

/// Writes a message.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    pub(super) flexible: bool,
}

impl Writer {
    /// A message with room for its length in front.
    pub(super) fn new(flexible: bool) -> Self {
        Self {
            bytes: vec![0; 4],
            flexible,
        }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Lengths come from a request that was read, so they fit.
    fn length(&mut self, length: Option<usize>, short: bool) {
        let number = length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX));
        if self.flexible {
            self.varint(number.wrapping_add(1) as u32);
        } else if short {
            self.i16(i16::try_from(number).unwrap_or(i16::MAX));
        } else {
            self.i32(number);
        }
    }

    pub(super) fn string(&mut self, text: &str) {
        self.length(Some(text.len()), true);
        self.raw(text.as_bytes());
    }

    pub(super) fn no_string(&mut self) {
        self.length(None, true);
    }

    pub(super) fn array(&mut self, count: usize) {
        self.length(Some(count), false);
    }

    /// An array that is not there, or bytes that are not.
    pub(super) fn nothing(&mut self) {
        self.length(None, false);
    }

    pub(super) fn tags(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }

    /// The frame.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len() - 4).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }
}
