//! Running one program on one packet without a device (`BPF_PROG_TEST_RUN`).
use std::os::fd::AsFd;

use abi::names;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Datapath, Error, Result, sys};

/// The part of the kernel's `struct __sk_buff` that a run can be given and gives back: as much of it as Linux 5.10 knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct SkbContext {
    /// Not given; zero.
    pub len: u32,
    /// Not given; zero.
    pub pkt_type: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// Not given; zero.
    pub queue_mapping: u32,
    /// Not given; zero.
    pub protocol: u32,
    /// Not given; zero.
    pub vlan: [u32; 3],
    /// `skb->priority`.
    pub priority: u32,
    /// Device the packet came in by.
    pub ingress_ifindex: u32,
    /// Device the program runs on; must exist in the calling thread's network namespace, zero is the loopback device.
    pub ifindex: u32,
    /// Not given; zero.
    pub tc_index: u32,
    /// `skb->cb`.
    pub cb: [u32; 5],
}

/// As much of the kernel's `struct xdp_md` as a run can be given.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
struct XdpContext {
    /// Offsets of the packet in what is given.
    data: u32,
    data_end: u32,
    data_meta: u32,
    /// Must be a device that programs run on.
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's verdict.
    pub verdict: i32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// The context as the program left it.
    pub context: SkbContext,
    /// Nanoseconds of one run, on average.
    pub nanoseconds: u32,
}

/// Bytes that a program may add to a packet.
const ROOM: usize = 512;
/// More than any kernel's whole context; what a kernel does not know must be zero.
const CONTEXT: usize = 512;

impl Datapath {
    /// Runs a program on `packet`, link-layer header included. Of the context the program for drivers takes the device alone, which must have
    /// it (Linux 5.15).
    ///
    /// # Errors
    /// When there is no such program, or the kernel does not take the packet (shorter than a header) or the context.
    pub fn test_run(
        &self,
        program: &'static str,
        packet: &[u8],
        context: SkbContext,
    ) -> Result<TestRun> {
        self.test_run_repeat(program, packet, context, 1)
    }

    /// As [`Datapath::test_run`], `repeat` times over the same packet, for measuring.
    ///
    /// # Errors
    /// As there.
    pub fn test_run_repeat(
        &self,
        program: &'static str,
        packet: &[u8],
        context: SkbContext,
        repeat: u32,
    ) -> Result<TestRun> {
        let found = self
            .attacher
            .program(program)
            .ok_or(Error::NoProgram { name: program })?;
        let mut output = vec![0; packet.len() + ROOM];
        output[..packet.len()].copy_from_slice(packet);
        let mut whole = [0; CONTEXT];
        let is_driver = program == names::XDP_ENTRY;
        if is_driver {
            let given = XdpContext {
                data_end: packet.len() as u32,
                ingress_ifindex: context.ifindex,
                ..XdpContext::default()
            };
            whole[..size_of::<XdpContext>()].copy_from_slice(given.as_bytes());
        } else {
            whole[..size_of::<SkbContext>()].copy_from_slice(context.as_bytes());
        }
        let (verdict, len, nanoseconds) = sys::test_run(
            found.fd.as_fd(),
            &mut output,
            packet.len(),
            &mut whole,
            repeat,
        )
        .map_err(Error::bpf("test-run program", program))?;
        output.truncate(len);
        let context = SkbContext::read_from_prefix(&whole)
            .ok()
            .filter(|_| !is_driver)
            .map_or(context, |(context, _)| context);
        Ok(TestRun {
            verdict: verdict.cast_signed(),
            packet: output,
            context,
            nanoseconds,
        })
    }
}
