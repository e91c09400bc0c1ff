//! What the running kernel has, and what is used where it lacks something.
use crate::{
    rtnl,
    sys::{self, AttachType, Kind, MapShape, NewProgram},
};

/// A feature of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// tcx links.
    Tcx,
    /// `bpf_redirect_peer`.
    RedirectPeer,
    /// `bpf_redirect_neigh`.
    RedirectNeigh,
    /// netkit devices.
    Netkit,
    /// The kernel's type information.
    Btf,
    /// Ring buffers.
    RingBuffer,
    /// `bpf_set_retval` at sockets.
    RefusalReasons,
    /// VXLAN devices.
    Vxlan,
    /// Geneve devices.
    Geneve,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 9] = [
        Self::Tcx,
        Self::RedirectPeer,
        Self::RedirectNeigh,
        Self::Netkit,
        Self::Btf,
        Self::RingBuffer,
        Self::RefusalReasons,
        Self::Vxlan,
        Self::Geneve,
    ];

    /// Its name in lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::RedirectPeer => "redirect_peer",
            Self::RedirectNeigh => "redirect_neigh",
            Self::Netkit => "netkit",
            Self::Btf => "btf",
            Self::RingBuffer => "ringbuf",
            Self::RefusalReasons => "refusal_reasons",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }

    /// What is missing without it, and what is used instead.
    #[must_use]
    pub const fn without(self) -> &'static str {
        match self {
            Self::Tcx => "no tcx links (Linux 6.6): programs are attached by clsact filters",
            Self::RedirectPeer => {
                "no bpf_redirect_peer (Linux 5.10): packets reach pods through the host's backlog, use enable-host-legacy-routing"
            }
            Self::RedirectNeigh => {
                "no bpf_redirect_neigh (Linux 5.10): packets to other nodes take the host stack, use enable-host-legacy-routing"
            }
            Self::Netkit => "no netkit devices (Linux 6.8, CONFIG_NETKIT): pods get veth pairs",
            Self::Btf => {
                "no type information (CONFIG_DEBUG_INFO_BTF): verifier messages and bpftool dumps name no types"
            }
            Self::RingBuffer => "no BPF ring buffer (Linux 5.8): the programs cannot be loaded",
            Self::RefusalReasons => {
                "no error numbers from programs at sockets (Linux 6.1): clients of a service without backends see EPERM, not EHOSTUNREACH"
            }
            Self::Vxlan => {
                "no VXLAN devices (CONFIG_VXLAN): use tunnel-protocol geneve or routing-mode native"
            }
            Self::Geneve => {
                "no Geneve devices (CONFIG_GENEVE): use tunnel-protocol vxlan or routing-mode native"
            }
        }
    }

    /// Whether the running kernel has it. Needs the rights that loading programs needs.
    #[must_use]
    pub fn is_there(self) -> bool {
        match self {
            Self::Tcx => has_tcx(),
            Self::RedirectPeer => has_helper(Kind::Classifier, 155),
            Self::RedirectNeigh => has_helper(Kind::Classifier, 152),
            Self::Netkit => has_netkit(),
            Self::Btf => std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
            Self::RingBuffer => has_ring_buffer(),
            Self::RefusalReasons => has_refusal_reasons(),
            Self::Vxlan => rtnl::knows_device_kind("vxlan"),
            Self::Geneve => rtnl::knows_device_kind("geneve"),
        }
    }
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The feature.
    pub feature: Feature,
    /// Whether the kernel has it.
    pub present: bool,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.present {
            "present"
        } else {
            self.feature.without()
        })
    }
}

/// Probes every feature.
#[must_use]
pub fn all() -> Vec<Finding> {
    Feature::ALL
        .into_iter()
        .map(|feature| Finding {
            feature,
            present: feature.is_there(),
        })
        .collect()
}

/// Kernels without tcx do not know the attach type; those with it look for the device.
pub(crate) fn has_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    match sys::attached_links(LOOPBACK, AttachType::TcxIngress) {
        Ok(_) => true,
        Err(e) => matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)),
    }
}

/// Kernels with netkit say of the loopback device that it is none.
fn has_netkit() -> bool {
    const LOOPBACK: u32 = 1;
    sys::attached_links(LOOPBACK, AttachType::NetkitPrimary)
        .is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)))
}

/// `bpf_ktime_get_coarse_ns` (Linux 5.11).
pub(crate) fn has_coarse_clock() -> bool {
    has_helper(Kind::Classifier, 160)
}

/// `bpf_set_retval` for programs at sockets (Linux 6.1).
pub(crate) fn has_refusal_reasons() -> bool {
    has_helper(Kind::SockAddr(AttachType::Connect4), 187)
}

/// Whether programs of a kind may call a helper: loads one that calls it with zeros.
fn has_helper(kind: Kind, number: u8) -> bool {
    const SET: u8 = 0xB7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    let code = [
        [SET, 1, 0, 0, 0, 0, 0, 0],
        [SET, 2, 0, 0, 0, 0, 0, 0],
        [SET, 3, 0, 0, 0, 0, 0, 0],
        [SET, 4, 0, 0, 0, 0, 0, 0],
        [CALL, 0, 0, 0, number, 0, 0, 0],
        [SET, 0, 0, 0, 1, 0, 0, 0],
        [EXIT, 0, 0, 0, 0, 0, 0, 0],
    ];
    let Ok(instructions) = aya_obj::copy_instructions(code.as_flattened()) else {
        return false;
    };
    let program = NewProgram {
        name: "probe",
        kind,
        instructions: &instructions,
        license: c"GPL",
        btf: None,
    };
    sys::prog_load(&program).is_ok()
}

fn has_ring_buffer() -> bool {
    let shape = MapShape {
        id: 0,
        kind: crate::MapKind::RingBuf as u32,
        key_size: 0,
        value_size: 0,
        max_entries: 4096,
        flags: 0,
        name: "probe".to_owned(),
    };
    sys::map_create(&shape).is_ok()
}
