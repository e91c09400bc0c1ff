//! Which services may have an address in common.
use super::Known;

/// Why two services cannot share an address; none if they can.
pub(super) fn obstacle(a: &Known, b: &Known) -> Option<String> {
    let (Ok(ours), Ok(theirs)) = (&a.notes, &b.notes) else {
        return Some("the annotations of one cannot be read".to_owned());
    };
    if ours.key.is_empty() || ours.key != theirs.key {
        return Some("they have no sharing key in common".to_owned());
    }
    let (namespace, other) = (
        a.request.key.split('/').next(),
        b.request.key.split('/').next(),
    );
    let allows = |list: &[String], name: Option<&str>| {
        list.iter()
            .any(|item| item == "*" || Some(item.as_str()) == name)
    };
    if namespace != other
        && !(allows(&ours.namespaces, other) && allows(&theirs.namespaces, namespace))
    {
        return Some("not both allow the other's namespace".to_owned());
    }
    if let Some((protocol, port)) = a
        .request
        .ports
        .iter()
        .find(|port| b.request.ports.contains(port))
    {
        return Some(format!("both have port {port}/{protocol}"));
    }
    if a.request.local != b.request.local {
        return Some("their externalTrafficPolicy differs".to_owned());
    }
    let any_pods = ours.any_pods && theirs.any_pods;
    if a.request.local && a.request.selector != b.request.selector && !any_pods {
        return Some("with externalTrafficPolicy Local both must have the same pods".to_owned());
    }
    None
}
