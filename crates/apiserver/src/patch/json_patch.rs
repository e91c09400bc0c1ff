//! JSON patch (RFC 6902).

use serde_json::Value;

use super::super::error::ApiError;

/// How many operations a patch may have.
const MAX_OPERATIONS: usize = 10_000;

/// How many bytes all copies of a patch may make together: each may double what is there.
const MAX_COPIED: usize = 3 << 20;

/// How deep an object may become: what reads and drops values recurses.
const MAX_DEPTH: usize = 128;

/// One operation; places are JSON pointers, already split.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Puts a value in.
    Add(Pointer, Value),
    /// Takes a value out.
    Remove(Pointer),
    /// Puts a value where one is.
    Replace(Pointer, Value),
    /// Takes a value from the first place to the second.
    Move(Pointer, Pointer),
    /// Puts a copy of the value at the first place into the second.
    Copy(Pointer, Pointer),
    /// Goes on only if the value is this.
    Test(Pointer, Value),
}

/// A split JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let segments = text.strip_prefix('/')?.split('/');
        Some(Self(
            segments
                .map(|s| s.replace("~1", "/").replace("~0", "~"))
                .collect(),
        ))
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .try_for_each(|s| write!(f, "/{}", s.replace('~', "~0").replace('/', "~1")))
    }
}

/// Reads a patch.
pub fn parse(patch: &Value) -> Result<Vec<Operation>, ApiError> {
    let list = patch
        .as_array()
        .ok_or_else(|| ApiError::bad_request("a JSON patch is a list of operations"))?;
    if list.len() > MAX_OPERATIONS {
        return Err(ApiError::bad_request(format!(
            "a JSON patch may have at most {MAX_OPERATIONS} operations"
        )));
    }
    let fail = |i: usize, why: String| {
        ApiError::bad_request(format!("operation {i} of the JSON patch: {why}"))
    };
    list.iter()
        .enumerate()
        .map(|(i, entry)| operation(entry).map_err(|why| fail(i, why)))
        .collect()
}

fn operation(entry: &Value) -> Result<Operation, String> {
    let pointer = |field: &str| {
        let text = entry[field]
            .as_str()
            .ok_or_else(|| format!("\"{field}\" is missing"))?;
        Pointer::parse(text).ok_or_else(|| format!("\"{field}\" is not a JSON pointer: {text:?}"))
    };
    let value = || {
        entry
            .get("value")
            .cloned()
            .ok_or_else(|| "\"value\" is missing".to_owned())
    };
    match entry["op"].as_str() {
        Some("add") => Ok(Operation::Add(pointer("path")?, value()?)),
        Some("remove") => Ok(Operation::Remove(pointer("path")?)),
        Some("replace") => Ok(Operation::Replace(pointer("path")?, value()?)),
        Some("move") => Ok(Operation::Move(pointer("from")?, pointer("path")?)),
        Some("copy") => Ok(Operation::Copy(pointer("from")?, pointer("path")?)),
        Some("test") => Ok(Operation::Test(pointer("path")?, value()?)),
        _ => Err(format!(
            "\"op\" is none of add, remove, replace, move, copy, test: {}",
            entry["op"]
        )),
    }
}

/// Applies all operations, or says which one cannot be.
pub fn apply(target: &mut Value, operations: &[Operation]) -> Result<(), String> {
    let mut copied = 0;
    operations
        .iter()
        .try_for_each(|operation| apply_one(target, operation, &mut copied))
}

fn apply_one(target: &mut Value, operation: &Operation, copied: &mut usize) -> Result<(), String> {
    match operation {
        Operation::Add(path, value) => add(target, path, value.clone()),
        Operation::Remove(path) => remove(target, path).map(drop),
        Operation::Replace(path, value) => {
            check_depth(path, value)?;
            *find(target, path)? = value.clone();
            Ok(())
        }
        Operation::Move(from, path) => {
            if path.0.len() > from.0.len() && path.0.starts_with(&from.0) {
                return Err(format!("cannot move {from} into itself"));
            }
            let value = remove(target, from)?;
            add(target, path, value)
        }
        Operation::Copy(from, path) => {
            let value = find(target, from)?.clone();
            *copied += value.to_string().len();
            if *copied > MAX_COPIED {
                return Err(format!(
                    "the copies of this patch make more than {MAX_COPIED} bytes"
                ));
            }
            add(target, path, value)
        }
        Operation::Test(path, value) => {
            let found = find(target, path)?;
            if found == value {
                Ok(())
            } else {
                Err(format!("test failed: {path} is {found}, not {value}"))
            }
        }
    }
}

fn missing(path: &Pointer) -> String {
    format!("there is nothing at {path}")
}

fn find<'a>(target: &'a mut Value, path: &Pointer) -> Result<&'a mut Value, String> {
    let found = path
        .0
        .iter()
        .try_fold(target, |at, segment| child(at, segment));
    found.ok_or_else(|| missing(path))
}

fn child<'a>(at: &'a mut Value, segment: &str) -> Option<&'a mut Value> {
    match at {
        Value::Object(map) => map.get_mut(segment),
        Value::Array(list) => list.get_mut(index(segment)?),
        _ => None,
    }
}

/// An array index: digits without a leading zero.
fn index(segment: &str) -> Option<usize> {
    let plain = segment == "0" || !segment.starts_with(['0', '+']);
    segment.parse().ok().filter(|_| plain)
}

fn split_last<'p, 'v>(
    target: &'v mut Value,
    path: &'p Pointer,
) -> Result<Option<(&'v mut Value, &'p str)>, String> {
    let Some((last, parents)) = path.0.split_last() else {
        return Ok(None);
    };
    Ok(Some((find(target, &Pointer(parents.to_vec()))?, last)))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn check_depth(path: &Pointer, value: &Value) -> Result<(), String> {
    let fits = path.0.len() + depth(value) <= MAX_DEPTH;
    if fits {
        Ok(())
    } else {
        Err(format!(
            "the value at {path} would be nested deeper than {MAX_DEPTH} levels"
        ))
    }
}

fn add(target: &mut Value, path: &Pointer, value: Value) -> Result<(), String> {
    check_depth(path, &value)?;
    match split_last(target, path)? {
        None => *target = value,
        Some((Value::Object(map), last)) => drop(map.insert(last.to_owned(), value)),
        Some((Value::Array(list), "-")) => list.push(value),
        Some((Value::Array(list), last)) => {
            let at = index(last)
                .filter(|at| *at <= list.len())
                .ok_or_else(|| missing(path))?;
            list.insert(at, value);
        }
        Some(_) => return Err(missing(path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &Pointer) -> Result<Value, String> {
    let removed = match split_last(target, path)? {
        None => Some(std::mem::take(target)),
        Some((Value::Object(map), last)) => map.remove(last),
        Some((Value::Array(list), last)) => index(last)
            .filter(|at| *at < list.len())
            .map(|at| list.remove(at)),
        Some(_) => None,
    };
    removed.ok_or_else(|| missing(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(target: Value, patch: Value) -> Result<Value, String> {
        let mut target = target;
        apply(&mut target, &parse(&patch).map_err(|e| e.to_string())?)?;
        Ok(target)
    }

    #[test]
    fn every_operation() {
        for (target, patch, result) in [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": 2}]),
                json!({"a": 1, "b": 2}),
            ),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-", "value": 2}]),
                json!({"a": [1, 2]}),
            ),
            (
                json!({"a": {"b/c": 1, "~": 2}}),
                json!([{"op": "remove", "path": "/a/b~1c"}, {"op": "remove", "path": "/a/~0"}]),
                json!({"a": {}}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "replace", "path": "/a/0", "value": 9}]),
                json!({"a": [9, 2]}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "move", "from": "/a", "path": "/b"}]),
                json!({"b": 1}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": 1, "b": 1}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1}]),
                json!({"a": 1}),
            ),
            (
                json!(1),
                json!([{"op": "replace", "path": "", "value": 2}]),
                json!(2),
            ),
        ] {
            assert_eq!(patched(target, patch.clone()), Ok(result), "{patch}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for patch in [
            json!({}),
            json!([{"op": "fly"}]),
            json!([{"op": "add", "path": "b", "value": 1}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "add", "path": "/a/9", "value": 1}]),
            json!([{"op": "remove", "path": "/a/01"}]),
            json!([{"op": "replace", "path": "/z", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": 1}]),
            json!([{"op": "move", "from": "/a", "path": "/a/0"}]),
        ] {
            assert!(
                patched(json!({"a": [1, 2]}), patch.clone()).is_err(),
                "{patch}"
            );
        }
    }

    #[test]
    fn copies_cannot_explode() {
        let doubling = json!({"op": "copy", "from": "", "path": "/a/-"});
        let why = patched(json!({"a": ["x"]}), json!(vec![doubling; 1000])).unwrap_err();
        assert!(why.contains("bytes"), "{why}");
    }

    #[test]
    fn nesting_is_bounded() {
        let deeper: Vec<Value> = (0..200)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/a"}))
            .collect();
        let why = patched(json!({"a": {}}), json!(deeper)).unwrap_err();
        assert!(why.contains("deeper"), "{why}");
    }

    proptest! {
        #[test]
        fn odd_paths_never_panic(path in "[/~01a9-]{0,12}", from in "[/~01a9-]{0,12}", op in 0usize..6) {
            let op = ["add", "remove", "replace", "move", "copy", "test"][op];
            let patch = json!([{"op": op, "path": path, "from": from, "value": 1}]);
            let _ = patched(json!({"a": [1, {"a": 0}], "0": {"-": []}}), patch);
        }
    }
}
