//! Following the machine: addresses that come and go while the agent runs.
use crate::{machine, setup};
use datapath::Datapath;
use model::{LocalNode, Tables};
use routing::HostPair;
use runtime::{health::Component, settings::Settings, stop::Stop};
use std::{sync::Arc, time::Duration};

/// How often the machine is looked at.
const INTERVAL: Duration = Duration::from_secs(15);

/// What [`Follower::look`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// Nothing.
    None,
    /// Other addresses; they can be taken over.
    Addresses(Box<LocalNode>),
    /// Something that the programs were told at start.
    Restart(String),
}

/// Looks at devices and addresses again and again.
#[derive(Debug)]
pub struct Follower {
    /// The tables.
    pub tables: Tables,
    /// The kernel's side.
    pub datapath: Arc<Datapath>,
    /// Our devices.
    pub pair: HostPair,
    /// The settings.
    pub settings: Settings,
    /// How it is.
    pub health: Component,
}

impl Follower {
    /// Works until `stop`.
    pub async fn run(self, stop: Stop) {
        self.health.ok("devices as at start");
        let this = Arc::new(self);
        while stop.or(tokio::time::sleep(INTERVAL)).await.is_some() {
            let again = this.clone();
            if tokio::task::spawn_blocking(move || again.once())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    fn once(&self) {
        let snapshot = self.tables.db.snapshot();
        let Some(local) = self.tables.local_node.iter(&snapshot).next() else {
            return;
        };
        let found = match machine::inspect(&self.settings) {
            Ok(found) => found,
            Err(error) => return self.health.degraded(format!("{error:#}")),
        };
        match compare(local, found) {
            Change::None => self.health.ok("devices as at start"),
            Change::Restart(why) => self
                .health
                .degraded(format!("{why}; restart the agent to use it")),
            Change::Addresses(next) => {
                if let Err(error) =
                    setup::write_addresses(&self.datapath, &self.settings, &next, &self.pair)
                {
                    return self.health.degraded(format!("{error:#}"));
                }
                tracing::info!(addresses = ?next.addresses, "the node's addresses changed");
                let mut txn = self.tables.db.write();
                // The tables have no unique index that could refuse.
                let _ = self
                    .tables
                    .devices
                    .replace_all(&mut txn, next.devices.clone());
                let _ = self.tables.local_node.insert(&mut txn, next);
                txn.commit();
            }
        }
    }
}

fn compare(local: &LocalNode, found: machine::Machine) -> Change {
    let shape = |devices: &[model::Device]| {
        devices
            .iter()
            .map(|d| (d.name.clone(), d.ifindex, d.mac, d.mtu))
            .collect::<Vec<_>>()
    };
    if shape(&local.devices) != shape(&found.devices) {
        return Change::Restart("a device came, went or changed its MTU or MAC address".to_owned());
    }
    let next = LocalNode {
        devices: found.devices,
        addresses: found.addresses,
        ..local.clone()
    };
    for ipv6 in [false, true] {
        if next.primary(ipv6) != local.primary(ipv6) {
            return Change::Restart("the node's primary address changed".to_owned());
        }
    }
    if next == *local {
        Change::None
    } else {
        Change::Addresses(Box::new(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Device;

    #[test]
    fn new_addresses_are_taken_over_and_new_devices_are_not() {
        let device = Device {
            name: "eth0".to_owned(),
            ifindex: 2,
            mtu: 1500,
            addresses: vec!["192.0.2.1/24".parse().unwrap()],
            ..Device::default()
        };
        let machine = |device: &Device| machine::Machine {
            devices: vec![device.clone()],
            addresses: device.addresses.iter().map(|net| net.addr()).collect(),
        };
        let first = machine(&device);
        let local = LocalNode {
            devices: first.devices.clone(),
            addresses: first.addresses.clone(),
            ..LocalNode::default()
        };
        assert_eq!(compare(&local, first), Change::None);
        let mut more = device.clone();
        more.addresses.push("192.0.2.2/24".parse().unwrap());
        assert!(
            matches!(compare(&local, machine(&more)), Change::Addresses(next) if next.addresses.len() == 2)
        );
        let other = Device {
            mtu: 9000,
            ..device.clone()
        };
        assert!(matches!(
            compare(&local, machine(&other)),
            Change::Restart(_)
        ));
        let moved = Device {
            addresses: vec!["192.0.2.9/24".parse().unwrap()],
            ..device
        };
        assert!(matches!(
            compare(&local, machine(&moved)),
            Change::Restart(_)
        ));
    }
}
