//! Parameters of `/api/flows`: the fields of the flow API's request, filters in JSON.
use api::hubble::flow::FlowFilter;
use api::hubble::json::{self, Unknown};
use api::hubble::observer::GetFlowsRequest;
use prost_types::{FieldMask, Timestamp};

use crate::filter::Filters;
use crate::mask::Mask;

/// What a query asks for. A filter may be given several times: one of them suffices.
///
/// # Errors
/// A parameter is unknown or its value is none; in one line.
pub(super) fn request(query: &str) -> Result<GetFlowsRequest, String> {
    let mut request = GetFlowsRequest::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        set(&mut request, &name, &value).map_err(|text| format!("{name}={value}: {text}"))?;
    }
    if request.first && request.follow {
        return Err("first and follow exclude each other".to_owned());
    }
    Filters::compile(&request.whitelist, &request.blacklist)
        .map_err(|error| format!("a filter is not understood: {error}"))?;
    Mask::new(request.field_mask.as_ref()).map_err(|text| format!("field_mask: {text}"))?;
    Ok(request)
}

fn set(request: &mut GetFlowsRequest, name: &str, value: &str) -> Result<(), String> {
    match name {
        "number" => {
            request.number = value
                .parse()
                .map_err(|_| "accepted: a whole number; 0: all".to_owned())?;
        }
        "first" => request.first = switch(value)?,
        "follow" => request.follow = switch(value)?,
        "since" => request.since = Some(time(value)?),
        "until" => request.until = Some(time(value)?),
        "whitelist" => request.whitelist.push(filter(value)?),
        "blacklist" => request.blacklist.push(filter(value)?),
        "field_mask" => {
            let mask = request.field_mask.get_or_insert_with(FieldMask::default);
            mask.paths.extend(value.split(',').map(str::to_owned));
        }
        _ => {
            return Err(
                "there is no such parameter; accepted: number, first, follow, since, until, whitelist, blacklist, field_mask"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

fn switch(value: &str) -> Result<bool, String> {
    value
        .parse()
        .map_err(|_| "accepted: true, false".to_owned())
}

fn time(value: &str) -> Result<Timestamp, String> {
    value
        .parse()
        .map_err(|_| "accepted: a time as 2025-03-04T09:12:01.402Z".to_owned())
}

fn filter(value: &str) -> Result<FlowFilter, String> {
    json::from_str(value, Unknown::Refuse).map_err(|error| error.to_string())
}
