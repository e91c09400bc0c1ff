//! DEL: complete with or without the agent, and as often as the runtime likes.

use std::time::Duration;

use api::{Client, ClientError, ErrorCode, delete_queue::DeleteQueue};
use netlink::Handle;

use super::{agent, delete_queue};
use crate::{CniError, Config, Invocation, code, device, host_interface, log::Log};

/// The agent holds the lock while it replays; that is quick.
const LOCK_WAIT: Duration = Duration::from_secs(10);

pub(super) fn del(invocation: &Invocation, config: &Config, log: &mut Log) -> Result<(), CniError> {
    let endpoint = endpoint(&mut agent(config), invocation, config, log);
    // Whatever became of the endpoint, the interface goes: the address behind it may be given to another pod.
    let name = host_interface(&invocation.container_id, &invocation.interface);
    let link = Handle::new().and_then(|mut node| device::remove(&mut node, &name));
    match (endpoint, link) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(e), Ok(())) => Err(e),
        (Ok(()), Err(e)) => Err(e.into()),
        (Err(e), Err(more)) => Err(e.and(more)),
    }
}

/// Removes the endpoint now, or leaves the deletion to the agent's next start.
pub(super) fn endpoint(
    agent: &mut Client,
    invocation: &Invocation,
    config: &Config,
    log: &mut Log,
) -> Result<(), CniError> {
    let Some(unreachable) = delete(agent, invocation)? else {
        return Ok(());
    };
    log.line(
        "warning",
        &format!(
            "the deletion of {} waits for the agent: {unreachable}",
            invocation.endpoint()
        ),
    );
    let failed = |e: api::delete_queue::QueueError| {
        CniError::new(code::FAILED, e.to_string()).and(&unreachable)
    };
    let queue = DeleteQueue::lock(&delete_queue(config), LOCK_WAIT).map_err(failed)?;
    // The agent may have come up, and drained the queue, while we waited for the lock.
    if matches!(unreachable, ClientError::Unreachable { .. })
        && delete(agent, invocation)?.is_none()
    {
        return Ok(());
    }
    queue.push(&invocation.deletion()).map_err(failed)
}

/// Done (`None`), or not done because the agent cannot be asked now.
fn delete(agent: &mut Client, invocation: &Invocation) -> Result<Option<ClientError>, CniError> {
    match agent.delete_endpoint(&invocation.endpoint()) {
        Ok(()) => Ok(None),
        Err(e) if e.code() == Some(ErrorCode::NotFound) => Ok(None),
        Err(e) if e.retry() => Ok(Some(e)),
        Err(e) => Err(e.into()),
    }
}
