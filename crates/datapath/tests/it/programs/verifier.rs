//! What the verifier makes of the programs, for every combination of features: it takes them, and at about the known cost.
use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use abi::{Aggregation, DatapathConfig, DsrDispatch, Routing};
use datapath::Datapath;
use nix::sys::utsname::uname;

use super::scene::native;
use crate::support::{Place, place};

/// Verified instructions by program and combination.
type Costs = BTreeMap<String, u32>;

/// Name and settings of every combination.
fn combinations() -> Vec<(String, impl Fn(&mut DatapathConfig))> {
    let mut all = Vec::new();
    let set = |dispatch, routing, legacy, aggregation, ipv6, proxy, across| {
        move |config: &mut DatapathConfig| {
            native(config);
            config.xdp = 1;
            (config.proxy_ifindex, config.nat46x64) = (proxy, across);
            config.dsr_dispatch = dispatch as u8;
            (config.routing, config.host_legacy) = (routing as u8, legacy);
            (config.aggregation, config.ipv6) = (aggregation as u8, ipv6);
        }
    };
    for routing in [Routing::Native, Routing::Tunnel] {
        for legacy in [0, 1] {
            for aggregation in [Aggregation::None, Aggregation::Medium] {
                for ipv6 in [1, 0] {
                    let families = if ipv6 == 1 { "dual" } else { "ipv4" };
                    let path = if legacy == 1 { "stack" } else { "direct" };
                    let name =
                        format!("{routing:?}-{path}-{aggregation:?}-{families}").to_lowercase();
                    let set = set(DsrDispatch::None, routing, legacy, aggregation, ipv6, 0, 0);
                    all.push((name, set));
                }
            }
        }
    }
    // With direct answers.
    for (routing, dispatch) in [
        (Routing::Native, DsrDispatch::Option),
        (Routing::Native, DsrDispatch::Geneve),
        (Routing::Tunnel, DsrDispatch::Geneve),
    ] {
        let name = format!("{routing:?}-direct-medium-dual-{dispatch:?}").to_lowercase();
        all.push((
            name,
            set(dispatch, routing, 0, Aggregation::Medium, 1, 0, 0),
        ));
    }
    // With backends of the other family.
    for routing in [Routing::Native, Routing::Tunnel] {
        let name = format!("{routing:?}-direct-none-dual-proxy-across").to_lowercase();
        let none = (DsrDispatch::None, Aggregation::None);
        all.push((name, set(none.0, routing, 0, none.1, 1, 7, 1)));
    }
    // With a proxy, and all that makes the programs long.
    for (routing, legacy, dispatch) in [
        (Routing::Native, 0, DsrDispatch::Option),
        (Routing::Native, 1, DsrDispatch::None),
        (Routing::Tunnel, 0, DsrDispatch::Geneve),
    ] {
        let path = if legacy == 1 { "stack" } else { "direct" };
        let name = format!("{routing:?}-{path}-none-dual-{dispatch:?}-proxy").to_lowercase();
        all.push((
            name,
            set(dispatch, routing, legacy, Aggregation::None, 1, 7, 0),
        ));
    }
    all
}

fn costs(here: &Place) -> Costs {
    let mut costs = Costs::new();
    for (name, set) in combinations() {
        let mut options = here.options();
        set(&mut options.config);
        let (datapath, _) = Datapath::open(&options).unwrap();
        let programs = datapath.programs().unwrap();
        for (program, info) in abi::names::PROGRAMS.into_iter().zip(programs) {
            // What sockets are told does not depend on how packets go.
            let what = if abi::names::SOCK_PROGRAMS.contains(&program) {
                program.to_owned()
            } else {
                format!("{program} {name}")
            };
            costs.insert(what, info.verified_insns);
        }
    }
    costs
}

/// The known costs on kernels of this release; the file need not be there.
fn golden(release: &str) -> (PathBuf, Costs) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/it/programs/verifier/{release}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_default();
    let rows = text.lines().filter_map(|line| line.rsplit_once(' '));
    let costs = rows
        .map(|(what, cost)| (what.to_owned(), cost.parse().unwrap()))
        .collect();
    (path, costs)
}

#[test]
fn verified_instructions() {
    place(|here| {
        let costs = costs(here);
        let text = costs.iter().fold(String::new(), |mut text, (what, cost)| {
            writeln!(text, "{what} {cost}").unwrap();
            text
        });
        print!("{text}");
        let system = uname().unwrap();
        let release: Vec<_> = system
            .release()
            .to_str()
            .unwrap()
            .split('.')
            .take(2)
            .collect();
        let (path, known) = golden(&release.join("."));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            return;
        }
        let off = |what: &String, cost: u32| {
            known
                .get(what)
                .is_none_or(|known| known.abs_diff(cost) * 10 > *known)
        };
        let changed: Vec<_> = costs
            .iter()
            .filter(|(what, cost)| off(what, **cost))
            .collect();
        // The verifiers of other kernels count otherwise: nothing is known of them.
        assert!(
            known.is_empty() || changed.is_empty(),
            "more than a tenth off {}: {changed:#?}\nUPDATE_EXPECT=1 takes it over",
            path.display()
        );
    });
}
