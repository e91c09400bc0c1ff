//! No silent drop, and no reason without a way to it: every reason in the programs' source is reached by a packet here.
use std::{collections::BTreeSet, fs, path::Path};

use abi::{Direction, DropReason, names};

use super::{
    packet::{MACS, Packet, SYN},
    scene::{Came, Ip, Scene, native},
};
use crate::support::place;

/// Reached with a real tunnel device, in the tests of [`super::overlay`].
const BY_TUNNEL: [DropReason; 2] = [DropReason::NoLocalContainer, DropReason::InvalidIdentity];

/// Reached with policies, in the tests of [`super::policy`].
const BY_POLICY: [DropReason; 3] = [
    DropReason::PolicyDenied,
    DropReason::PolicyDeny,
    DropReason::NoPolicyConfig,
];

/// Reached with services, in the tests of [`super::services`] and [`super::direct`].
const BY_SERVICES: [DropReason; 8] = [
    // In the tests of [`super::crossing`].
    DropReason::Nat46,
    DropReason::Nat64,
    DropReason::LocalHostUnreachable,
    DropReason::FragmentationNeeded,
    DropReason::NoServiceBackend,
    DropReason::FibLookupFailed,
    DropReason::IsClusterIp,
    DropReason::LbSourceRange,
];

/// Reached with a proxy, in the tests of [`super::proxy`].
const BY_PROXY: [DropReason; 4] = [
    DropReason::FragmentsUnsupported,
    DropReason::CtUnknownState,
    DropReason::SocketLookupFailed,
    DropReason::ProxyUnsupportedProtocol,
];

/// For helpers that fail when the kernel has no memory, or that the checks before them do not let fail.
const NOT_BY_PACKETS: [DropReason; 6] = [
    DropReason::SocketAssignFailed,
    DropReason::ErrorWritingToPacket,
    DropReason::L3Checksum,
    DropReason::L4Checksum,
    DropReason::CtInsertFailed,
    DropReason::NoTunnelEndpoint,
];

/// The rest is for policies, services, encryption and other features to come, or is known from other systems only.
const LATER: &str = "\
    InvalidSourceMac InvalidDestinationMac CtCannotCreate MissedTailCall UnknownL4Protocol \
    UnknownIcmpv4Code UnknownIcmpv4Type UnknownIcmpv6Code UnknownIcmpv6Type ErrorRetrievingTunnelOptions InvalidGeneveOption \
    StaleIp Nat46Disabled EdtHorizon \
    UnsupportedL2 EncapsulationTrafficIsProhibited UnknownSender NatNotNeeded \
    VlanFiltered InvalidVni InvalidTcBuffer NoSid \
    MissingSrv6State AuthenticationRequired CtNoMap SnatNoMap InvalidClusterid UnsupportedDsrProtocol \
    NoEgressGateway UnencryptedTraffic NoNodeIdFound RateLimited IgmpHandled IgmpSubscribed HostNotReady \
    NoEgressIp";

/// The reasons that the programs' source names.
fn in_source() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = vec![root.join("../../bpf/src"), root.join("../wire/src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for start in ["DropReason::", "drop_because!("] {
                for rest in text.split(start).skip(1) {
                    let name: String = rest
                        .chars()
                        .take_while(char::is_ascii_alphanumeric)
                        .collect();
                    found.extend(name.starts_with(char::is_uppercase).then_some(name));
                }
            }
        }
    }
    found
}

fn names_of(reasons: impl IntoIterator<Item = DropReason>) -> BTreeSet<String> {
    reasons
        .into_iter()
        .map(|reason| format!("{reason:?}"))
        .collect()
}

/// Packets of a family that a pod's program drops, and why.
fn from_pod(ip: Ip) -> Vec<(DropReason, Packet)> {
    let (pod, near, far) = (ip.pod1(), ip.pod2(), ip.outside());
    let tcp = |to| Packet::tcp((pod, 1000), (to, 80), SYN);
    let errors = Packet::unreachable(pod, far, &tcp(far).bytes());
    vec![
        (
            DropReason::InvalidSourceIp,
            Packet::tcp((near, 1), (pod, 2), SYN),
        ),
        (
            DropReason::InvalidPacket,
            tcp(near).change_l4(|l4| l4[12] = 0x40),
        ),
        (
            DropReason::CtInvalidHeader,
            tcp(near).change_l4(|l4| l4.truncate(19)),
        ),
        (
            DropReason::CtUnknownL4Protocol,
            Packet::new(pod, near, 47, vec![0; 8]),
        ),
        (DropReason::UnknownTarget, tcp(ip.multicast())),
        (DropReason::NatNoMapping, errors),
        (
            DropReason::NatUnsupportedProtocol,
            // A timestamp; an answer that nobody waits for.
            match ip {
                Ip::V4 => Packet::icmp(pod, far, 13, 0, [0; 4], &[]),
                Ip::V6 => Packet::pong(pod, far, 3),
            },
        ),
        (DropReason::TtlExceeded, tcp(far).ttl(1)),
    ]
}

/// The packets above and those that need more than a packet of their own, with what came of them.
fn reached(scene: &Scene) -> Vec<(DropReason, Came)> {
    let mut all = Vec::new();
    for ip in Ip::BOTH {
        let (pod, near) = (ip.pod1(), ip.pod2());
        for (reason, packet) in from_pod(ip) {
            all.push((reason, scene.from_pod1(&packet.bytes())));
        }
        let whole = Packet::udp((pod, 1), (near, 2), &[0; 64]);
        let [_, later] = whole.split(3, 2);
        all.push((DropReason::FragmentNotFound, scene.from_pod1(&later)));
        let stranger = scene.run(names::FROM_CONTAINER, scene.eth0, &whole.bytes(), 0);
        all.push((DropReason::EndpointNotReady, stranger));
        let overlay = scene.run(names::FROM_OVERLAY, scene.eth0, &whole.bytes(), 0);
        all.push((DropReason::ErrorRetrievingTunnelKey, overlay));
    }
    let frame = [&MACS.concat(), &[0x88, 0xCC][..], &[0; 40]].concat();
    all.push((DropReason::UnsupportedL3, scene.from_pod1(&frame)));
    let solicit = Packet::icmp(Ip::V6.pod1(), Ip::V6.multicast(), 134, 0, [0; 4], &[]);
    all.push((
        DropReason::ForbiddenIcmpv6Message,
        scene.from_pod1(&solicit.bytes()),
    ));
    let report = Packet::icmp(Ip::V6.pod1(), Ip::V6.multicast(), 143, 0, [0; 4], &[]);
    all.push((
        DropReason::MulticastHandled,
        scene.from_pod1(&report.bytes()),
    ));
    // Five destination option headers in a row.
    let options: Vec<u8> = [60, 60, 60, 60, 17]
        .iter()
        .flat_map(|next| [*next, 0, 1, 4, 0, 0, 0, 0])
        .collect();
    let chain = Packet::new(
        Ip::V6.pod1(),
        Ip::V6.pod2(),
        60,
        [options, vec![0; 8]].concat(),
    );
    all.push((
        DropReason::InvalidExtensionHeader,
        scene.from_pod1(&chain.bytes()),
    ));
    all
}

#[test]
fn every_reason_is_reached() {
    place(|here| {
        let scene = Scene::new(here, native);
        let mut seen = BTreeSet::new();
        for (reason, came) in reached(&scene) {
            let reasons: Vec<_> = came
                .counted
                .iter()
                .map(|(number, _)| DropReason::from_u8(*number))
                .collect();
            assert_eq!(
                (came.verdict, reasons),
                (super::scene::SHOT, vec![Some(reason)])
            );
            seen.insert(format!("{reason:?}"));
        }
        seen.extend(names_of(BY_TUNNEL));
        seen.extend(names_of(BY_POLICY));
        seen.extend(names_of(BY_SERVICES));
        seen.extend(names_of(BY_PROXY));
        seen.extend(names_of(NOT_BY_PACKETS));
        assert_eq!(seen, in_source());
        let later: BTreeSet<String> = LATER.split(' ').map(str::to_owned).collect();
        let all = names_of(DropReason::ALL.iter().copied());
        assert_eq!(&all - &seen, later);
        assert_eq!(
            scene
                .datapath
                .metrics()
                .unwrap()
                .get(0, Direction::Unknown)
                .unwrap()
                .packets,
            0
        );
    });
}
