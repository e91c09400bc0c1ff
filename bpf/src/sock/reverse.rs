//! From the backend that the kernel names to the frontend that the socket means.
use abi::SockPoint;

use super::{Call, Named, report::report};
use crate::{config, service::Services};

/// Writes the frontend over a backend that the socket was sent to; other addresses are left as they are. `often`: it is asked for
/// every datagram, and not told of each. True if it was such a backend.
#[inline(always)]
pub fn to_frontend<N: Named>(call: Call, often: bool) -> bool {
    if call.proto().is_none() {
        return false;
    }
    let backend = N::get(call);
    let Some((frontend, _)) = N::F::meant(call.cookie(), backend) else {
        return false;
    };
    if !often || config::reports_all() {
        report(call, SockPoint::PreReverse, backend);
        report(call, SockPoint::PostReverse, frontend);
    }
    N::set(call, frontend);
    true
}
