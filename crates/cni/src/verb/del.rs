//! DEL: complete with or without the agent, and as often as the runtime likes.

use std::time::Duration;

use api::{
    Client, ClientError, EndpointDeleted, ErrorCode,
    delete_queue::{DeleteQueue, QueueError},
};
use netlink::Handle;

use super::{agent, delete_queue};
use crate::{CniError, Config, Invocation, code, device, host_interface, log::Log};

/// The agent holds the lock while it replays; that is quick.
const LOCK_WAIT: Duration = Duration::from_secs(10);

pub(super) fn del(invocation: &Invocation, config: &Config, log: &mut Log) -> Result<(), CniError> {
    let endpoint = endpoint(&mut agent(config), invocation, config, log);
    if matches!(
        endpoint,
        Ok(EndpointDeleted {
            device_removed: true
        })
    ) {
        return Ok(());
    }
    // Whatever became of the endpoint, the interface goes: the address behind it may be given to another pod.
    let name = host_interface(&invocation.container_id, &invocation.interface);
    let link = Handle::new().and_then(|mut node| device::remove(&mut node, &name));
    match (endpoint, link) {
        (Ok(_), Ok(())) => Ok(()),
        (Err(e), Ok(())) => Err(e),
        (Ok(_), Err(e)) => Err(e.into()),
        (Err(e), Err(more)) => Err(e.and(more)),
    }
}

/// Removes the endpoint now, or leaves the deletion to the agent's next start.
pub(super) fn endpoint(
    agent: &mut Client,
    invocation: &Invocation,
    config: &Config,
    log: &mut Log,
) -> Result<EndpointDeleted, CniError> {
    let unreachable = match delete(agent, invocation)? {
        Answer::Deleted(deleted) => return Ok(deleted),
        Answer::NotNow(why) => why,
    };
    log.line(
        "warning",
        &format!(
            "the deletion of {} waits for the agent: {unreachable}",
            invocation.endpoint()
        ),
    );
    let failed = |e: QueueError| CniError::new(code::FAILED, e.to_string()).and(&unreachable);
    let queue = DeleteQueue::lock(&delete_queue(config), LOCK_WAIT).map_err(failed)?;
    // The agent may have become ready, and drained the queue, while we waited for the lock. One that was reached and did not
    // answer is not asked again: that would double the wait.
    let hangs = matches!(unreachable, ClientError::Io { .. });
    if !hangs && let Answer::Deleted(deleted) = delete(agent, invocation)? {
        return Ok(deleted);
    }
    queue.push(&invocation.deletion()).map_err(failed)?;
    Ok(EndpointDeleted::default())
}

enum Answer {
    Deleted(EndpointDeleted),
    NotNow(ClientError),
}

fn delete(agent: &mut Client, invocation: &Invocation) -> Result<Answer, CniError> {
    match agent.delete_endpoint(&invocation.endpoint()) {
        Ok(deleted) => Ok(Answer::Deleted(deleted)),
        Err(e) if e.code() == Some(ErrorCode::NotFound) => {
            Ok(Answer::Deleted(EndpointDeleted::default()))
        }
        Err(e) if e.retry() => Ok(Answer::NotNow(e)),
        Err(e) => Err(e.into()),
    }
}
