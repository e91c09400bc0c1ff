//! Any patch of any object: refused, or an object comes out; a merge patch once more changes nothing. The text: an object, a line with the
//! content type, the patch.

use hypha_apiserver::{kinds, patch::Patch, schema};
use serde_json::Value;

pub fn run(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (Some(object), Some(content_type), Some(patch)) =
        (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let Ok(mut object) = serde_json::from_slice::<Value>(object) else {
        return;
    };
    let kind = kinds::pod();
    let content_type = String::from_utf8_lossy(content_type);
    let Ok((patch, _)) = Patch::parse(&kind, &content_type, patch) else {
        return;
    };
    if schema::admit(&kind, &mut object, schema::UnknownFields::Drop, &[]).is_err() {
        return;
    }
    let Ok(mut once) = patch.clone().apply(&kind, object) else {
        return;
    };
    if matches!(patch, Patch::Merge(_)) {
        assert_eq!(patch.apply(&kind, once.clone()).as_ref(), Ok(&once));
    }
    if schema::admit(&kind, &mut once, schema::UnknownFields::Drop, &[]).is_ok() {
        schema::drop_empty(&mut once, &kind.schema());
        let before = once.clone();
        assert_eq!(
            schema::admit(&kind, &mut once, schema::UnknownFields::Refuse, &[]),
            Ok(Vec::new())
        );
        assert_eq!(once, before);
    }
}
