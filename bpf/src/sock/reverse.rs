//! From the backend that the kernel names to the frontend that the socket means.
use super::{Call, Named};
use crate::service::Services;

/// Writes the frontend over a backend that the socket was sent to; other addresses are left as they are.
#[inline(always)]
pub fn to_frontend<N: Named>(call: Call) {
    if call.proto().is_none() {
        return;
    }
    if let Some((frontend, _)) = N::F::meant(call.cookie(), N::get(call)) {
        N::set(call, frontend);
    }
}
