//! What it costs packets that have nothing to do with it that a node has a proxy: the same programs on the same way, with its device
//! and without.
use anyhow::Result;

use crate::{
    Args,
    load::{Load, Target},
    report::Report,
    topology::{Family, Path, Side, Stage},
};

/// Adds the figures that are asked for.
///
/// # Errors
/// A stage cannot be built, or does not work.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    for path in [Path::SameNode, Path::Native] {
        let name = |load: Load| format!("proxy/others/{path}/{load}");
        let loads: Vec<Load> = [Load::TcpStream, Load::Crr, Load::Urr]
            .into_iter()
            .filter(|load| args.filter.wants(&name(*load)))
            .collect();
        if loads.is_empty() {
            continue;
        }
        let (on, off) = (Stage::with_proxy(path)?, Stage::new(path, Side::Hypha)?);
        let [ours, theirs] = [&on, &off].map(|stage| Target::of(stage, Family::V4));
        let turns = args.turns().close();
        for load in loads {
            report.add(turns.between(name(load), load, &ours, &theirs)?);
        }
    }
    Ok(())
}
