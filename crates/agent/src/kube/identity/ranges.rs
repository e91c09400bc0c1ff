//! What policies and names say of ranges of addresses.
use ipnet::IpNet;
use model::UsedPrefix;
use policy::identity::{Info, Metadata, Source};
use std::collections::BTreeSet;
use tables::{Change, ChangeKind};

/// Takes over what a resource says of ranges by now; those of which that may change something.
pub(super) fn follow_used<'s>(
    metadata: &mut Metadata,
    resource: &str,
    changes: impl Iterator<Item = Change<'s, UsedPrefix>>,
) -> BTreeSet<IpNet> {
    let mut touched = BTreeSet::new();
    for change in changes {
        let prefix = change.row.prefix.trunc();
        touched.insert(prefix);
        let labels = &change.row.labels;
        // All addresses of a family have an identity anyway, that of the world.
        let needed = prefix.prefix_len() > 0 || !labels.is_empty();
        touched.extend(if change.kind == ChangeKind::Upsert && needed {
            let info = Info::Labels(labels.clone());
            metadata.upsert(prefix, resource, Source::Generated, info)
        } else {
            metadata.remove(prefix, resource)
        });
    }
    touched
}
