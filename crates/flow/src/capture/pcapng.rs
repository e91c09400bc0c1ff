//! Packets in the format of pcapng: devices by name, times in nanoseconds, a comment for each packet.
use super::socket::Link;
use std::collections::BTreeMap;

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;

/// Kinds of options.
mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    /// Of packets: in or out.
    pub const FLAGS: u16 = 2;
    /// Of interfaces.
    pub const NAME: u16 = 2;
    /// Of interfaces: how fine times are.
    pub const RESOLUTION: u16 = 9;
    /// Of sections.
    pub const APPLICATION: u16 = 4;
    /// Of statistics: packets that nobody read in time.
    pub const DROPPED: u16 = 5;
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// How many it had.
    pub length: usize,
    /// It left by the device.
    pub outgoing: bool,
    /// What is known of it.
    pub comment: &'a str,
}

/// Writes blocks.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    /// Devices by their numbers, with their place in the file.
    devices: BTreeMap<(u32, bool), u32>,
    snap: u32,
}

impl Writer {
    /// A file that begins with what it is; packets are cut after `snap` bytes.
    #[must_use]
    pub fn new(snap: usize) -> Self {
        let mut writer = Self {
            snap: length(snap),
            ..Self::default()
        };
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes());
        add(&mut body, option::APPLICATION, b"hypha");
        add(&mut body, option::END, b"");
        writer.block(SECTION, &body);
        writer
    }

    /// What was written since it was asked last.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The place of a device in the file; its name is asked for the first time.
    pub fn device(&mut self, index: u32, link: Link, name: impl FnOnce() -> String) -> u32 {
        let key = (index, link == Link::Raw);
        if let Some(place) = self.devices.get(&key) {
            return *place;
        }
        let place = length(self.devices.len());
        self.devices.insert(key, place);
        let kind: u16 = match link {
            Link::Ethernet => 1,
            Link::Raw => 101,
        };
        let mut body = Vec::new();
        body.extend(kind.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(self.snap.to_le_bytes());
        add(&mut body, option::NAME, name().as_bytes());
        add(&mut body, option::RESOLUTION, &[9]);
        add(&mut body, option::END, b"");
        self.block(INTERFACE, &body);
        place
    }

    /// Adds a packet of the device at `place`.
    pub fn packet(&mut self, place: u32, packet: &Packet<'_>) {
        let mut body = Vec::with_capacity(packet.bytes.len() + packet.comment.len() + 64);
        body.extend(place.to_le_bytes());
        stamp(&mut body, packet.time);
        body.extend(length(packet.bytes.len()).to_le_bytes());
        body.extend(length(packet.length).to_le_bytes());
        padded(&mut body, packet.bytes);
        let direction: u32 = if packet.outgoing { 2 } else { 1 };
        add(&mut body, option::COMMENT, packet.comment.as_bytes());
        add(&mut body, option::FLAGS, &direction.to_le_bytes());
        add(&mut body, option::END, b"");
        self.block(PACKET, &body);
    }

    /// Says how many packets are missing, of all devices together: it stands with the first. A file without any is none for many programs.
    pub fn lost(&mut self, time: u64, lost: u64) {
        if self.devices.is_empty() {
            self.device(0, Link::Ethernet, || "any".to_owned());
        }
        let mut body = Vec::new();
        body.extend(0u32.to_le_bytes());
        stamp(&mut body, time);
        add(&mut body, option::DROPPED, &lost.to_le_bytes());
        add(&mut body, option::END, b"");
        self.block(STATISTICS, &body);
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let whole = length(body.len() + 12).to_le_bytes();
        self.out.extend(kind.to_le_bytes());
        self.out.extend(whole);
        self.out.extend(body);
        self.out.extend(whole);
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn stamp(body: &mut Vec<u8>, time: u64) {
    for half in [time >> 32, time & 0xFFFF_FFFF] {
        body.extend(u32::try_from(half).unwrap_or_default().to_le_bytes());
    }
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// An option; what is too long for one is cut.
fn add(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(kind.to_le_bytes());
    body.extend(length.to_le_bytes());
    padded(body, value);
}
