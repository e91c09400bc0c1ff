//! What a server says it knows. Clients use the newest of it, which may be what cannot be read here: topics by their numbers, or a
//! request that could not even be denied. They are offered what can.
use super::{
    request::{is_flexible, key},
    wire::{Malformed, Reader, Writer},
};

/// The frame of a server's answer, with what is left of each kind of request: `offer` gets its number and its oldest and newest
/// version, and says which is to be the newest, if any. `body` is what follows the answer's number.
pub(super) fn restrict(
    id: i32,
    version: i16,
    body: &[u8],
    offer: impl Fn(i16, i16, i16) -> Option<i16>,
) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(body, is_flexible(key::API_VERSIONS, version));
    let error = reader.i16()?;
    if error != 0 {
        // It is in the oldest form or, by some servers, in none; what it holds is about this one kind of request.
        let mut writer = Writer::new(false);
        writer.i32(id);
        writer.raw(body);
        return Ok(writer.finish());
    }
    let mut offered = Vec::new();
    for _ in 0..reader.array()?.unwrap_or(0) {
        let (kind, oldest, newest) = (reader.i16()?, reader.i16()?, reader.i16()?);
        reader.tags()?;
        offered.extend(offer(kind, oldest, newest).map(|newest| (kind, oldest, newest)));
    }
    let mut writer = Writer::new(reader.flexible);
    writer.i32(id);
    writer.i16(error);
    writer.array(offered.len());
    for (kind, oldest, newest) in offered {
        writer.i16(kind);
        writer.i16(oldest);
        writer.i16(newest);
        writer.tags();
    }
    writer.raw(reader.rest());
    Ok(writer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: i16, _: i16, newest: i16) -> Option<i16> {
        (kind != 71).then_some(if kind == 1 { newest.min(12) } else { newest })
    }

    #[test]
    fn the_newest_version_is_lowered_and_what_is_not_offered_left_out() {
        let numbers = |list: &[i16]| -> Vec<u8> {
            list.iter()
                .flat_map(|number| number.to_be_bytes())
                .collect()
        };
        // Without tags, then the time for which the client was held up.
        let old = [
            numbers(&[0, 0, 3, 1, 4, 17, 71, 0, 0, 3, 0, 13]),
            vec![0, 0, 0, 9],
        ]
        .concat();
        let frame = restrict(5, 1, &old, limit).unwrap();
        let wanted = [
            vec![0, 0, 0, 26, 0, 0, 0, 5],
            numbers(&[0, 0, 2, 1, 4, 12, 3, 0, 13]),
            vec![0, 0, 0, 9],
        ];
        assert_eq!(frame, wanted.concat());
        // With them: one more than the count, and a list of tags after each and at the end.
        let mut new = vec![0, 0, 4];
        for kind in [[1, 4, 17], [71, 0, 0], [3, 0, 13]] {
            new.extend(numbers(&kind));
            new.push(0);
        }
        new.extend([0, 0, 0, 9, 1, 0, 1, 42]);
        let frame = restrict(5, 3, &new, limit).unwrap();
        let mut wanted = vec![0, 0, 0, 29, 0, 0, 0, 5, 0, 0, 3];
        for kind in [[1, 4, 12], [3, 0, 13]] {
            wanted.extend(numbers(&kind));
            wanted.push(0);
        }
        wanted.extend([0, 0, 0, 9, 1, 0, 1, 42]);
        assert_eq!(frame, wanted);
        // A version that the server does not know is answered in the oldest form.
        let unsupported = numbers(&[35, 0, 1, 18, 0, 4]);
        let frame = restrict(5, 4, &unsupported, limit).unwrap();
        assert_eq!(frame[8..], unsupported);
        assert_eq!(
            restrict(5, 0, &numbers(&[0, 0, 9, 1]), limit),
            Err(Malformed)
        );
    }
}
