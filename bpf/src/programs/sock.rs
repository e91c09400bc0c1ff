//! What sockets ask the kernel for: programs of a control group, for each family.
use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};

use crate::{
    config,
    sock::{Call, GO, In4, In6, Mapped, check, to_backend, to_frontend},
};

/// A socket connects.
#[cgroup_sock_addr(connect4)]
pub fn cil_sock4_connect(ctx: SockAddrContext) -> i32 {
    to_backend::<In4>(Call(ctx.sock_addr), true)
}

/// A socket connects.
#[cgroup_sock_addr(connect6)]
pub fn cil_sock6_connect(ctx: SockAddrContext) -> i32 {
    forward6(Call(ctx.sock_addr), true)
}

/// A datagram is sent to an address; also by IPv6 sockets to one of IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn cil_sock4_sendmsg(ctx: SockAddrContext) -> i32 {
    to_backend::<In4>(Call(ctx.sock_addr), false)
}

/// A datagram is sent to an address.
#[cgroup_sock_addr(sendmsg6)]
pub fn cil_sock6_sendmsg(ctx: SockAddrContext) -> i32 {
    forward6(Call(ctx.sock_addr), false)
}

/// Somebody asks where a datagram comes from.
#[cgroup_sock_addr(recvmsg4)]
pub fn cil_sock4_recvmsg(ctx: SockAddrContext) -> i32 {
    to_frontend::<In4>(Call(ctx.sock_addr), true);
    GO
}

/// Somebody asks where a datagram comes from.
#[cgroup_sock_addr(recvmsg6)]
pub fn cil_sock6_recvmsg(ctx: SockAddrContext) -> i32 {
    reverse6(Call(ctx.sock_addr), true);
    GO
}

/// Somebody asks whom the socket is connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn cil_sock4_getpeername(ctx: SockAddrContext) -> i32 {
    to_frontend::<In4>(Call(ctx.sock_addr), false);
    GO
}

/// Somebody asks whom the socket is connected to.
#[cgroup_sock_addr(getpeername6)]
pub fn cil_sock6_getpeername(ctx: SockAddrContext) -> i32 {
    reverse6(Call(ctx.sock_addr), false);
    GO
}

/// A socket was bound.
#[cgroup_sock(post_bind4)]
pub fn cil_sock4_post_bind(ctx: SockContext) -> i32 {
    check::<false>(ctx.sock)
}

/// A socket was bound.
#[cgroup_sock(post_bind6)]
pub fn cil_sock6_post_bind(ctx: SockContext) -> i32 {
    check::<true>(ctx.sock)
}

#[inline(always)]
fn forward6(call: Call, connects: bool) -> i32 {
    if call.is_mapped() {
        to_backend::<Mapped>(call, connects)
    } else {
        to_backend::<In6>(call, connects)
    }
}

#[inline(always)]
fn reverse6(call: Call, often: bool) {
    // A backend in IPv4's form may stand for a frontend of either family.
    let done = call.is_mapped() && to_frontend::<Mapped>(call, often);
    if !done && (config::crosses() || !call.is_mapped()) {
        to_frontend::<In6>(call, often);
    }
}
