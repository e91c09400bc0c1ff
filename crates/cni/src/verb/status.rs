//! STATUS: whether pods can be attached now.

use api::ComponentState;

use super::agent;
use crate::{CniError, Config, code};

pub(super) fn status(config: &Config) -> Result<(), CniError> {
    // What is attached keeps its network without the agent: never the code for "existing containers suffer".
    let status = agent(config)
        .healthz()
        .map_err(|e| CniError::new(code::NOT_AVAILABLE, e.to_string()))?;
    if status.state == ComponentState::Failure {
        let message = format!("the agent is not ready: {}", status.message);
        return Err(CniError::new(code::NOT_AVAILABLE, message));
    }
    Ok(())
}
