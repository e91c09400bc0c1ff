//! Reads the tables.

use std::collections::BTreeMap;

use super::{Field, ListKind, Ty, Type};

const TABLES: &[&str] = &[
    include_str!("admissionregistration.v1.txt"),
    include_str!("apiextensions.v1.txt"),
    include_str!("apps.v1.txt"),
    include_str!("authentication.v1.txt"),
    include_str!("authorization.v1.txt"),
    include_str!("autoscaling.v1.txt"),
    include_str!("autoscaling.v2.txt"),
    include_str!("batch.v1.txt"),
    include_str!("certificates.v1.txt"),
    include_str!("coordination.v1.txt"),
    include_str!("core.v1.txt"),
    include_str!("discovery.v1.txt"),
    include_str!("events.v1.txt"),
    include_str!("meta.v1.txt"),
    include_str!("networking.v1.txt"),
    include_str!("node.v1.txt"),
    include_str!("policy.v1.txt"),
    include_str!("rbac.v1.txt"),
    include_str!("scheduling.v1.txt"),
    include_str!("storage.v1.txt"),
];

/// The name under which a table's package is called in other tables.
fn package_of<'a>(packages: &BTreeMap<String, &'a str>, short: &str) -> &'a str {
    packages.get(short).copied().unwrap_or_default()
}

/// `core.v1` for `io.k8s.api.core.v1`.
fn short_package(package: &str) -> String {
    let mut parts = package.rsplitn(3, '.');
    let version = parts.next().unwrap_or_default();
    let group = parts.next().unwrap_or_default();
    format!("{group}.{version}")
}

/// A struct as its block has it, embedded ones still apart.
struct Block {
    ty: Type,
    embedded: Vec<(u32, String)>,
}

/// All types of all tables.
pub(super) fn all() -> BTreeMap<String, Type> {
    let head = |table: &'static str| table.lines().next().unwrap_or_default();
    let package = |table: &'static str| head(table).split(' ').next().unwrap_or_default();
    let packages: BTreeMap<String, &str> = TABLES
        .iter()
        .map(|table| (short_package(package(table)), package(table)))
        .collect();
    let mut blocks = BTreeMap::new();
    for table in TABLES {
        for block in read(table, &packages) {
            blocks.insert(block.ty.name.clone(), block);
        }
    }
    let types = blocks.keys().cloned().collect::<Vec<_>>();
    let whole = |name: String| {
        let mut ty = blocks.get(&name)?.ty.clone();
        embed(&blocks, &name, &mut Vec::new(), &mut ty.fields);
        Some((name, ty))
    };
    types.into_iter().filter_map(whole).collect()
}

/// Adds the fields of embedded structs; `path` holds the numbers that lead to the struct `name`.
fn embed(
    blocks: &BTreeMap<String, Block>,
    name: &str,
    path: &mut Vec<u32>,
    into: &mut BTreeMap<String, Field>,
) {
    let Some(block) = blocks.get(name) else {
        return;
    };
    for (number, embedded) in &block.embedded {
        path.push(*number);
        if let Some(inner) = blocks.get(embedded) {
            for field in inner.ty.fields.values() {
                let mut field = field.clone();
                field.number = path.iter().chain(&field.number).copied().collect();
                into.insert(field.name.clone(), field);
            }
        }
        embed(blocks, embedded, path, into);
        path.pop();
    }
}

fn read(table: &str, packages: &BTreeMap<String, &str>) -> Vec<Block> {
    let mut lines = table.lines();
    let mut head = lines.next().unwrap_or_default().split(' ');
    let mut next = || head.next().unwrap_or_default();
    let (package, group, version) = (next(), next(), next());
    let group = if group == "-" { "" } else { group };
    let mut blocks: Vec<Block> = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match (line.strip_prefix(' '), blocks.last_mut()) {
            (None, _) => blocks.push(block(package, group, version, line)),
            (Some(line), Some(block)) => add(block, package, packages, line),
            (Some(_), None) => {}
        }
    }
    blocks
}

fn block(package: &str, group: &str, version: &str, line: &str) -> Block {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let marks: Vec<&str> = words.collect();
    let is_kind = marks.contains(&"!");
    let ty = Type {
        name: format!("{package}.{name}"),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: is_kind.then(|| name.to_owned()),
        atomic: marks.contains(&"atomic"),
        fields: BTreeMap::new(),
    };
    let mut block = Block {
        ty,
        embedded: Vec::new(),
    };
    if is_kind {
        for name in ["apiVersion", "kind"] {
            let field = plain(name, Ty::Str);
            block.ty.fields.insert(name.to_owned(), field);
        }
    }
    block
}

fn plain(name: &str, ty: Ty) -> Field {
    Field {
        name: name.to_owned(),
        ty,
        required: false,
        omit_zero: false,
        list: ListKind::Unsaid,
        merge: None,
        retain_keys: false,
        replace: false,
        number: vec![0],
    }
}

fn add(block: &mut Block, package: &str, packages: &BTreeMap<String, &str>, line: &str) {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (name, number, ty) = (next(), next().parse().unwrap_or(0), next());
    if name == "~" {
        let of = full_name(package, packages, ty);
        block.embedded.push((number, of));
        return;
    }
    let optional = ty.strip_prefix('?');
    let plain_type = optional.and_then(|ty| ty.strip_prefix('?'));
    let ty = plain_type.or(optional).unwrap_or(ty);
    let mut field = plain(name, type_of(package, packages, ty));
    field.required = optional.is_none();
    field.omit_zero = plain_type.is_some();
    field.number = vec![number];
    for word in words {
        let argument = |of: &str| word.strip_prefix(of)?.strip_suffix(')');
        if let Some(keys) = argument("map(") {
            field.list = ListKind::Map(keys.split(',').map(str::to_owned).collect());
        } else if let Some(key) = argument("merge(") {
            field.merge = Some(key.to_owned());
        }
        match word {
            "set" => field.list = ListKind::Set,
            "atomic" => field.list = ListKind::Atomic,
            "retain" => field.retain_keys = true,
            "replace" => field.replace = true,
            _ => {}
        }
    }
    block.ty.fields.insert(name.to_owned(), field);
}

fn full_name(package: &str, packages: &BTreeMap<String, &str>, name: &str) -> String {
    match name.rsplit_once('.') {
        Some((other, name)) => format!("{}.{name}", package_of(packages, other)),
        None => format!("{package}.{name}"),
    }
}

fn type_of(package: &str, packages: &BTreeMap<String, &str>, text: &str) -> Ty {
    if let Some(of) = text.strip_prefix("[]") {
        return Ty::List(Box::new(type_of(package, packages, of)));
    }
    if let Some(of) = text.strip_prefix("{}") {
        return Ty::Map(Box::new(type_of(package, packages, of)));
    }
    match text {
        "str" => Ty::Str,
        "bytes" => Ty::Bytes,
        "bool" => Ty::Bool,
        "i32" => Ty::Int32,
        "i64" => Ty::Int64,
        "f64" => Ty::Float,
        "time" => Ty::Time,
        "micro" => Ty::MicroTime,
        "dur" => Ty::Duration,
        "qty" => Ty::Quantity,
        "ios" => Ty::IntOrString,
        "raw" => Ty::Any,
        "items" => Ty::Items,
        "ora" => Ty::SchemaOrList,
        "orb" => Ty::SchemaOrBool,
        "ors" => Ty::SchemaOrNames,
        name => Ty::Object(full_name(package, packages, name)),
    }
}
