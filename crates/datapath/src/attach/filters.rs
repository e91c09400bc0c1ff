//! Attaching by clsact filters. A filter cannot be pinned: a directory named after the device records whose it is.
use std::{os::fd::AsFd, path::Path};

use abi::names;

use super::{Attached, Attacher, Attachment, Hook, Mechanism, Owner, Point, drop_link, owner, tc};
use crate::{Error, Result, pins};

impl Attacher {
    /// Attaches by a filter in the namespace that `tc` works in. Nothing records it: it ends with its device.
    pub(crate) fn attach_elsewhere(&self, tc: &mut tc::Tc, hook: &Hook<'_>) -> Result<Attached> {
        let program = self.current(hook.program)?;
        let found = tc
            .filter(hook.ifindex, hook.point)
            .map_err(hook.failed("look at"))?;
        if found.as_ref().is_some_and(|f| f.program_id == program.id) {
            return Ok(Attached::Unchanged);
        }
        tc.ensure_clsact(hook.ifindex)
            .map_err(hook.failed("attach"))?;
        tc.put(hook.ifindex, hook.point, hook.program, program.fd.as_fd())
            .map_err(hook.failed("attach"))?;
        Ok(match found {
            Some(_) => Attached::Updated,
            None => Attached::New,
        })
    }

    pub(super) fn attach_filter(&self, dir: &Path, hook: &Hook<'_>) -> Result<Attached> {
        let program = self.current(hook.program)?;
        let record = dir.join(owner::filters_name(hook.ifindex));
        let mut tc = tc::Tc::open().map_err(hook.failed("attach"))?;
        let filter = tc
            .filter(hook.ifindex, hook.point)
            .map_err(hook.failed("look at"))?;
        let in_place = filter.as_ref().is_some_and(|f| f.program_id == program.id);
        let done = match filter {
            Some(_) if !record.exists() => Attached::New,
            Some(_) if in_place => Attached::Unchanged,
            Some(_) => Attached::Updated,
            None => Attached::New,
        };
        if !record.exists() {
            self.drop_records(hook.ifindex)?;
            pins::make_dir(&record)?;
        }
        if !in_place {
            tc.ensure_clsact(hook.ifindex)
                .map_err(hook.failed("attach"))?;
            tc.put(hook.ifindex, hook.point, hook.program, program.fd.as_fd())
                .map_err(hook.failed("attach"))?;
        }
        drop_link(&dir.join(owner::LINKS).join(hook.program))?;
        for other in owner::filter_devices(dir)?
            .into_iter()
            .filter(|i| *i != hook.ifindex)
        {
            pins::remove_dir(&dir.join(owner::filters_name(other)))?;
        }
        Ok(done)
    }

    /// Removes the records of a device: an endpoint may have come back under another number.
    fn drop_records(&self, ifindex: u32) -> Result<()> {
        for owner in owner::all(&self.pins)? {
            pins::remove_dir(&owner.dir(&self.pins).join(owner::filters_name(ifindex)))?;
        }
        Ok(())
    }

    /// Removes filters of ours that the directory's records name; of `hook`'s point only, if one is given.
    pub(super) fn drop_filters(&self, dir: &Path, hook: Option<&Hook<'_>>) -> Result<()> {
        for ifindex in owner::filter_devices(dir)? {
            let failed = || Error::bpf("detach", format!("filter of device #{ifindex}"));
            let mut tc = tc::Tc::open().map_err(failed())?;
            let mut left = false;
            for point in [Point::Ingress, Point::Egress] {
                let filter = tc.filter(ifindex, point).map_err(failed())?;
                if !filter.is_some_and(|f| f.is_ours()) {
                    continue;
                }
                if hook.is_none_or(|hook| hook.point == point) {
                    tc.delete(ifindex, point).map_err(failed())?;
                } else {
                    left = true;
                }
            }
            if !left {
                pins::remove_dir(&dir.join(owner::filters_name(ifindex)))?;
            }
        }
        Ok(())
    }

    /// The filters of a recorded device; where it has none any more, the record itself as an attachment to no device.
    pub(super) fn filter_attachments(
        &self,
        owner: &Owner,
        ifindex: u32,
    ) -> Result<Vec<Attachment>> {
        let failed = || Error::bpf("list filters of", format!("device #{ifindex}"));
        let mut tc = tc::Tc::open().map_err(failed())?;
        let attachment = |program, ifindex, program_id| Attachment {
            owner: owner.named(ifindex),
            program,
            ifindex,
            gone: ifindex == 0,
            mechanism: Mechanism::Clsact,
            program_id,
            link_id: None,
            current: self.is_current(program, program_id),
        };
        let mut found = Vec::new();
        for point in [Point::Ingress, Point::Egress] {
            let Some(filter) = tc.filter(ifindex, point).map_err(failed())? else {
                continue;
            };
            if let Some(program) = names::DEVICE_PROGRAMS
                .into_iter()
                .find(|p| *p == filter.name)
            {
                found.push(attachment(program, ifindex, filter.program_id));
            }
        }
        if found.is_empty() {
            let program = if matches!(owner, Owner::Endpoint(_)) {
                names::FROM_CONTAINER
            } else {
                names::FROM_NETDEV
            };
            found.push(attachment(program, 0, 0));
        }
        Ok(found)
    }
}
