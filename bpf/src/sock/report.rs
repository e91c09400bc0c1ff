//! What is told of a translation.
use abi::{Direction, EventKind, SockEvent, SockPoint, event_flags};
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use zerocopy::transmute;

use super::Call;
use crate::{
    clock, config,
    maps::{self, NO_WAKEUP},
    service::{Place, Services},
};

/// Index of these programs in [`abi::source_file`].
const FILE: u8 = 8;

/// Writes a record of one address of a call into the ring, if anybody wants such.
#[inline(always)]
pub fn report<F: Services>(call: Call, point: SockPoint, at: Place<F>) {
    if !config::traces_sockets() {
        return;
    }
    let Some(mut record) = maps::events().reserve::<SockEvent>(0) else {
        // A packet's program may interrupt this and count the same: one more or less of many.
        maps::count(
            abi::LOST_EVENTS,
            Direction::Unknown,
            0,
            line!() as u16,
            FILE,
        );
        return;
    };
    record.write(SockEvent {
        time: clock::exact(),
        kind: EventKind::TraceSock as u8,
        point: point as u8,
        pad: 0,
        flags: if F::IS_V6 { event_flags::IPV6 } else { 0 },
        pad2: [0; 2],
        proto: call.proto().unwrap_or_default(),
        pad3: 0,
        cookie: call.cookie(),
        // SAFETY: a helper call.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        netns: call.netns(),
        pad4: 0,
        dst: F::widen(at.addr),
        pad5: [0; 2],
        dport: transmute!(at.port),
        pad6: [0; 12],
    });
    record.submit(NO_WAKEUP);
}
