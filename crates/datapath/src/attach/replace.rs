//! Putting new programs in the place of those that run.
use std::{os::fd::AsFd, path::Path};

use super::{Attacher, Hook, Mechanism, Owner, Point, drop_link, owner, tc};
use crate::{Error, Result, pins, sys};

/// What replacing the programs did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Attachments that run the new program now.
    pub updated: usize,
    /// Attachments that did so before.
    pub unchanged: usize,
    /// Attachments that were removed: the device is gone, or the program is not one of this version.
    pub stale: Vec<String>,
}

impl Replaced {
    fn count(&mut self, updated: bool) {
        *(if updated {
            &mut self.updated
        } else {
            &mut self.unchanged
        }) += 1;
    }

    fn stale(&mut self, owner: &Owner, what: &str) {
        tracing::info!(%owner, what, "stale attachment removed");
        self.stale.push(format!("{owner}: {what}"));
    }
}

impl Attacher {
    /// Gives every attachment the current program.
    pub(crate) fn replace_all(&self) -> Result<Replaced> {
        let mut replaced = Replaced::default();
        for owner in owner::all(&self.pins)? {
            let dir = owner.dir(&self.pins);
            for name in pins::names(&owner.links(&self.pins))? {
                self.replace_link(&owner, &name, &mut replaced)?;
            }
            for ifindex in owner::filter_devices(&dir)? {
                self.replace_filters(&owner, &dir, ifindex, &mut replaced)?;
            }
        }
        Ok(replaced)
    }

    fn replace_link(&self, owner: &Owner, name: &str, replaced: &mut Replaced) -> Result<()> {
        let path = owner.links(&self.pins).join(name);
        let Some(program) = self.program(name) else {
            replaced.stale(owner, name);
            return drop_link(&path);
        };
        let Some(link) = pins::open(&path)? else {
            return Ok(());
        };
        let state = sys::link_info(link.as_fd()).map_err(Error::pin("look at", &path))?;
        if state.is_gone() {
            replaced.stale(owner, &format!("{name}: what it was attached to is gone"));
            return pins::remove(&path).map(drop);
        }
        let old = state.prog_id != program.id;
        if old {
            sys::link_update(link.as_fd(), program.fd.as_fd())
                .map_err(Error::pin("replace the program of", &path))?;
        }
        replaced.count(old);
        Ok(())
    }

    fn replace_filters(
        &self,
        owner: &Owner,
        dir: &Path,
        ifindex: u32,
        replaced: &mut Replaced,
    ) -> Result<()> {
        let failed = || Error::bpf("replace the filters of", format!("device #{ifindex}"));
        let mut tc = tc::Tc::open().map_err(failed())?;
        let mut any = false;
        for point in [Point::Ingress, Point::Egress] {
            let Some(filter) = tc.filter(ifindex, point).map_err(failed())? else {
                continue;
            };
            let Some(program) = self.program(&filter.name) else {
                continue;
            };
            let old = filter.program_id != program.id;
            if old {
                tc.put(ifindex, point, program.name, program.fd.as_fd())
                    .map_err(failed())?;
            }
            any = true;
            replaced.count(old);
        }
        if !any {
            replaced.stale(
                owner,
                &format!("filters of device #{ifindex}: the device is gone"),
            );
            pins::remove_dir(&dir.join(owner::filters_name(ifindex)))?;
        }
        Ok(())
    }

    /// Detaches one hook if it is attached.
    pub(crate) fn detach_hook(&self, owner: &Owner, hook: &Hook<'_>) -> Result<()> {
        let dir = owner.dir(&self.pins);
        match hook.point.mechanism(self.mechanism) {
            Mechanism::Clsact => {
                let mut tc = tc::Tc::open().map_err(hook.failed("detach"))?;
                let filter = tc
                    .filter(hook.ifindex, hook.point)
                    .map_err(hook.failed("look at"))?;
                if filter.is_some_and(|f| f.is_ours()) {
                    tc.delete(hook.ifindex, hook.point)
                        .map_err(hook.failed("detach"))?;
                }
                Ok(())
            }
            _ => drop_link(&dir.join(owner::LINKS).join(hook.program)),
        }
    }
}
