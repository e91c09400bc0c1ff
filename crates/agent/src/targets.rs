//! What the reconcilers write to: the address cache and the main routing table.
use datapath::maps::Ipcache;
use ipnet::IpNet;
use model::{Prefix, Route};
use netlink::{Handle, LinkRef, RouteFilter, Scope, table};
use routing::ROUTE_PROTOCOL;
use std::collections::{BTreeMap, BTreeSet};
use tables::{Snapshot, reconcile::Target};

/// Writes prefixes into `cilium_ipcache`.
#[derive(Debug)]
pub struct IpcacheTarget(pub Ipcache);

impl Target<Prefix> for IpcacheTarget {
    type Error = datapath::Error;

    fn update(&mut self, _: &Snapshot, row: &Prefix) -> Result<(), Self::Error> {
        self.0.upsert(&row.abi_key(), &row.abi_value())
    }

    fn delete(&mut self, _: &Snapshot, row: &Prefix) -> Result<(), Self::Error> {
        self.0.remove(&row.abi_key()).map(drop)
    }

    fn prune(
        &mut self,
        _: &Snapshot,
        rows: &mut dyn Iterator<Item = &Prefix>,
    ) -> Result<(), Self::Error> {
        let wanted: BTreeSet<abi::IpcacheKey> = rows.map(Prefix::abi_key).collect();
        for (key, _) in self.0.dump()? {
            if !wanted.contains(&key) {
                self.0.remove(&key)?;
            }
        }
        Ok(())
    }
}

/// Writes routes into the main table, marked with our protocol number.
#[derive(Debug, Default)]
pub struct RouteTarget {
    /// The kernel's number of each device; looked up once, again after a failure.
    devices: BTreeMap<String, u32>,
    handle: Option<Handle>,
}

impl RouteTarget {
    /// Runs `work` with an open handle; a handle that failed is not used again.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Handle, &mut BTreeMap<String, u32>) -> netlink::Result<T>,
    ) -> netlink::Result<T> {
        let mut handle = match self.handle.take() {
            Some(handle) => handle,
            None => Handle::new()?,
        };
        let outcome = work(&mut handle, &mut self.devices);
        if outcome.is_ok() {
            self.handle = Some(handle);
        } else {
            self.devices.clear();
        }
        outcome
    }
}

impl Target<Route> for RouteTarget {
    type Error = netlink::Error;

    fn update(&mut self, _: &Snapshot, row: &Route) -> netlink::Result<()> {
        self.with(|handle, devices| {
            let wanted = kernel_route(row, device(handle, devices, &row.device)?);
            handle.route_replace(&wanted)
        })
    }

    fn delete(&mut self, _: &Snapshot, row: &Route) -> netlink::Result<()> {
        self.with(
            |handle, devices| match device(handle, devices, &row.device) {
                Ok(index) => handle.route_delete_if_exists(&kernel_route(row, index)),
                // A device takes its routes with it.
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            },
        )
    }

    fn prune(
        &mut self,
        _: &Snapshot,
        rows: &mut dyn Iterator<Item = &Route>,
    ) -> netlink::Result<()> {
        let wanted: BTreeSet<IpNet> = rows.map(|row| row.destination).collect();
        self.with(|handle, _| {
            let filter = RouteFilter {
                protocol: Some(ROUTE_PROTOCOL),
                ..RouteFilter::main()
            };
            for route in handle.routes(&filter)? {
                let destination = IpNet::new(route.dst.0, route.dst.1).ok();
                if destination.is_none_or(|net| !wanted.contains(&net)) {
                    handle.route_delete_if_exists(&route)?;
                }
            }
            Ok(())
        })
    }
}

fn device(
    handle: &mut Handle,
    known: &mut BTreeMap<String, u32>,
    name: &str,
) -> netlink::Result<u32> {
    if let Some(index) = known.get(name) {
        return Ok(*index);
    }
    let index = handle.link(LinkRef::from(name))?.index;
    known.insert(name.to_owned(), index);
    Ok(index)
}

/// A desired route in the kernel's terms.
#[must_use]
pub fn kernel_route(row: &Route, ifindex: u32) -> netlink::Route {
    let mut route = netlink::Route::to(row.destination.network(), row.destination.prefix_len())
        .dev(ifindex)
        .table(table::MAIN)
        .protocol(ROUTE_PROTOCOL);
    route = match row.gateway {
        Some(gateway) => route.via(gateway),
        None => route.scope(Scope::Link),
    };
    if let Some(source) = row.source {
        route = route.src(source);
    }
    if let Some(mtu) = row.mtu {
        route = route.mtu(mtu);
    }
    route
}
