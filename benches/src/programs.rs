//! What one program costs on a packet of a connection that it knows: no device, no stack, only the program.
use std::net::IpAddr;

use anyhow::Result;

use crate::{
    filter::Filter,
    report::{Report, Row},
    topology::{Family, Path, Side, Stage},
};

/// What the pod program of the field's leader takes in steady state, nanoseconds.
const LEADER: f64 = 1300.0;

/// Measures the pod program on every path.
pub fn measure(filter: &Filter, report: &mut Report) -> Result<()> {
    for path in Path::ALL {
        let name = |family: Family| format!("program/from-container/{path}/{family}");
        let families: Vec<Family> = Family::ALL
            .into_iter()
            .filter(|family| filter.wants(&name(*family)))
            .collect();
        if families.is_empty() {
            continue;
        }
        let stage = Stage::new(path, Side::Hypha)?;
        for family in families {
            let packet = segment(stage.client.address(family), stage.server.address(family));
            let nanoseconds = stage.time_program(abi::names::FROM_CONTAINER, &packet)?;
            let row = Row::against_goal(name(family), "ns", nanoseconds, LEADER);
            eprintln!("{row}");
            report.add(row);
        }
    }
    Ok(())
}

/// A bare TCP acknowledgement, hop limit 255. Checksums are left out: programs update them, they do not check them.
fn segment(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut packet = vec![0; 12];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 255, 6, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, 20, 6, 255]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => {}
    }
    packet.extend([
        0x9C, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ]);
    packet
}
