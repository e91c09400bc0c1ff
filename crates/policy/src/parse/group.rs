//! CiliumCIDRGroup.
use super::{Refused, Result, cursor::At};
use crate::rule::CidrGroup;
use serde_json::Value;

/// Reads a group of address ranges.
///
/// # Errors
/// [`Refused::Invalid`] with the first thing that is wrong.
pub fn cidr_group(object: &Value) -> std::result::Result<CidrGroup, Refused> {
    group(&At::root(object)).map_err(Refused::Invalid)
}

fn group(root: &At<'_>) -> Result<CidrGroup> {
    root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let metadata = root.need("metadata", "the object's name")?;
    let name = metadata.need("name", "the object's name")?.filled()?;
    let mut group = CidrGroup {
        name: name.to_owned(),
        ..CidrGroup::default()
    };
    if let Some(labels) = metadata.get("labels") {
        for (key, value) in labels.members()? {
            group
                .labels
                .insert(key.to_owned(), value.text()?.to_owned());
        }
    }
    let spec = root.need("spec", "the ranges of the group")?;
    spec.fields(&["externalCIDRs"])?;
    let ranges = spec.need("externalCIDRs", "a list of ranges")?;
    for item in ranges.items()? {
        group.cidrs.push(item.cidr()?);
    }
    Ok(group)
}
