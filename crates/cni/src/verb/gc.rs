//! GC: removes what the runtime does not want any more.

use std::collections::BTreeSet;

use api::path::EndpointId;
use netlink::Handle;

use super::agent;
use crate::{CniError, Config, code, device, host_interface, log::Log};

pub(super) fn gc(config: &Config, log: &mut Log) -> Result<(), CniError> {
    // Without the list nothing is valid and everything would go; that cannot be meant.
    let Some(valid) = &config.valid_attachments else {
        return Err(
            CniError::new(code::INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
                .details("field cni.dev/valid-attachments of the network configuration"),
        );
    };
    let valid: BTreeSet<_> = valid
        .iter()
        .map(|a| EndpointId::attachment(&a.container_id, &a.interface))
        .collect();
    let mut agent = agent(config);
    let mut failures: Option<CniError> = None;
    for endpoint in agent.endpoints()? {
        let Ok(id @ EndpointId::Attachment { .. }) = endpoint.attachment.parse::<EndpointId>()
        else {
            continue;
        };
        if valid.contains(&id) {
            continue;
        }
        log.line(
            "info",
            &format!("GC removes endpoint {} ({id})", endpoint.id),
        );
        if let Err(e) = remove(&mut agent, &id) {
            failures = Some(match failures {
                None => e,
                Some(first) => first.and(e),
            });
        }
    }
    failures.map_or(Ok(()), Err)
}

fn remove(agent: &mut api::Client, id: &EndpointId) -> Result<(), CniError> {
    match agent.delete_endpoint(id) {
        Ok(deleted) if deleted.device_removed => return Ok(()),
        Err(e) if e.code() != Some(api::ErrorCode::NotFound) => return Err(e.into()),
        _ => {}
    }
    let EndpointId::Attachment {
        container,
        interface,
    } = id
    else {
        return Ok(());
    };
    Ok(device::remove(
        &mut Handle::new()?,
        &host_interface(container, interface),
    )?)
}
