//! Attaching to the drivers of devices, where a program meets packets before the stack does. Where a driver has no place for one, it can
//! run where the stack begins: that saves little, but works with every device.
use std::{io, os::fd::AsFd, path::PathBuf};

use abi::{names, xdp_device};

use super::{Attached, Attacher, Owner, drop_link, owner};
use crate::{
    Datapath, Error, Result, driver,
    maps::TypedMap,
    pins,
    sys::{self, LinkState},
};

/// Where programs for drivers may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// In drivers; a device whose driver cannot is an error.
    Native,
    /// In drivers that can, else where the stack begins; nowhere on devices that have somebody else's program.
    BestEffort,
    /// Where the stack begins.
    Generic,
}

/// A device, and where its link is pinned.
struct Device<'a> {
    name: &'a str,
    ifindex: u32,
    path: PathBuf,
}

impl Device<'_> {
    fn failed(&self, why: impl Into<String>) -> Error {
        Error::Driver {
            device: self.name.to_owned(),
            why: why.into(),
        }
    }

    /// Whether a program can run in the driver, and send frames from there.
    fn can(&self) -> Result<()> {
        let offers = driver::offers(self.ifindex);
        if offers.is_some_and(|offers| !offers.programs) {
            return Err(self.failed("it has no place for programs"));
        }
        // What a program sends by a cable is lost if the other end does not look for it.
        if self.is_cable()? && offers.is_none_or(|offers| !offers.frames) {
            return Err(self.failed(
                "the other end of its cable takes no frames from programs (turn on GRO there, with ethtool -K DEVICE gro on; Linux 6.3)",
            ));
        }
        Ok(())
    }

    fn is_cable(&self) -> Result<bool> {
        driver::is_veth(self.ifindex).map_err(|e| self.failed(e.to_string()))
    }

    /// How programs send by the device that has one now; `None`: back the way it came, and nobody else. Some drivers take frames of others
    /// only once they have a program.
    fn place(&self, in_driver: bool) -> Result<Option<u32>> {
        if !in_driver {
            return Ok(Some(xdp_device::STACK));
        }
        if self.is_cable()? {
            return Ok(Some(xdp_device::CABLE));
        }
        let takes = driver::offers(self.ifindex).is_some_and(|offers| offers.frames);
        Ok(takes.then_some(xdp_device::DRIVER))
    }

    fn refused(&self, source: &io::Error) -> Error {
        self.failed(match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => "it has another XDP program".to_owned(),
            Some(libc::EOPNOTSUPP) => "it has no place for programs".to_owned(),
            Some(libc::ERANGE) => format!("{source} (is its MTU too large?)"),
            Some(libc::ENOSPC) => format!(
                "{source} (has it fewer receive queues than the other end has transmit queues?)"
            ),
            _ => source.to_string(),
        })
    }
}

impl Attacher {
    fn driver<'a>(&self, name: &'a str, ifindex: u32) -> Device<'a> {
        let links = Owner::Device(name.to_owned()).links(&self.pins);
        Device {
            name,
            ifindex,
            path: links.join(names::XDP_ENTRY),
        }
    }

    /// The link that the device has already, if it is there where it should be.
    fn driver_link(&self, device: &Device<'_>, in_driver: bool) -> Result<Option<LinkState>> {
        let Some(link) = pins::open(&device.path)? else {
            return Ok(None);
        };
        let state = sys::link_info(link.as_fd()).map_err(Error::pin("look at", &device.path))?;
        let fits =
            state.ifindex == device.ifindex && driver::is_in_driver(device.ifindex) == in_driver;
        if fits {
            return Ok(Some(state));
        }
        drop(link);
        drop_link(&device.path)?;
        Ok(None)
    }

    fn attach_driver(&self, device: &Device<'_>, in_driver: bool) -> Result<Attached> {
        let program = self.current(names::XDP_ENTRY)?;
        if in_driver {
            device.can()?;
        }
        match self.driver_link(device, in_driver)? {
            Some(state) if state.prog_id == program.id => return Ok(Attached::Unchanged),
            Some(_) => {
                let link =
                    pins::open(&device.path)?.ok_or_else(|| device.failed("its link is gone"))?;
                sys::link_update(link.as_fd(), program.fd.as_fd())
                    .map_err(|e| device.refused(&e))?;
                return Ok(Attached::Updated);
            }
            None => {}
        }
        let link = sys::link_create_xdp(program.fd.as_fd(), device.ifindex, in_driver)
            .map_err(|e| device.refused(&e))?;
        if let Some(dir) = device.path.parent() {
            pins::make_dir(dir)?;
        }
        pins::replace(link.as_fd(), &device.path)?;
        Ok(Attached::New)
    }

    /// Attaches where that may be and can be; where the program is then, if anywhere.
    fn accelerate(
        &self,
        device: &Device<'_>,
        how: Acceleration,
    ) -> Result<Option<(Attached, bool)>> {
        if how != Acceleration::Generic {
            match self.attach_driver(device, true) {
                Ok(done) => return Ok(Some((done, true))),
                Err(error @ Error::Driver { .. }) if how == Acceleration::BestEffort => {
                    let error = error.to_string();
                    tracing::info!(
                        device = device.name,
                        error,
                        "services are balanced where the stack begins"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        match self.attach_driver(device, false) {
            Ok(done) => Ok(Some((done, false))),
            Err(error @ Error::Driver { .. }) if how == Acceleration::BestEffort => {
                let error = error.to_string();
                tracing::warn!(
                    device = device.name,
                    error,
                    "services are balanced in the stack alone"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the program off every device that is none of these.
    fn slow_down(&self, but: &[Device<'_>]) -> Result<()> {
        for owner in owner::all(&self.pins)? {
            let path = owner.links(&self.pins).join(names::XDP_ENTRY);
            if but.iter().all(|device| device.path != path) {
                drop_link(&path)?;
            }
        }
        Ok(())
    }
}

impl Datapath {
    /// Attaches the program for drivers to these devices, by name and ifindex, and takes it off all others.
    ///
    /// # Errors
    /// [`Error::Driver`] for the first device that cannot have it as it should; then none has it.
    pub fn accelerate(&self, devices: &[(&str, u32)], how: Acceleration) -> Result<Attached> {
        let devices: Vec<Device<'_>> = devices
            .iter()
            .map(|(name, ifindex)| self.attacher.driver(name, *ifindex))
            .collect();
        self.attacher.slow_down(&devices)?;
        let rows = self.driver_map()?;
        let attached = self.accelerate_all(&devices, how, &rows);
        if attached.is_err() {
            self.attacher.slow_down(&[])?;
            write_all(&rows, &[])?;
        }
        attached
    }

    fn accelerate_all(
        &self,
        devices: &[Device<'_>],
        how: Acceleration,
        rows: &TypedMap<u32, u32>,
    ) -> Result<Attached> {
        let mut done = Attached::Unchanged;
        let mut places = Vec::new();
        for device in devices {
            let Some((one, in_driver)) = self.attacher.accelerate(device, how)? else {
                continue;
            };
            done = done.max(one);
            places.extend(
                device
                    .place(in_driver)?
                    .map(|place| (device.ifindex, place)),
            );
        }
        write_all(rows, &places)?;
        Ok(done)
    }
}

/// Makes these the rows.
fn write_all(rows: &TypedMap<u32, u32>, wanted: &[(u32, u32)]) -> Result<()> {
    rows.put_all(wanted)?;
    let others: Vec<u32> = rows
        .dump()?
        .into_iter()
        .map(|(ifindex, _)| ifindex)
        .filter(|ifindex| wanted.iter().all(|(known, _)| known != ifindex))
        .collect();
    rows.remove_all(&others).map(drop)
}
