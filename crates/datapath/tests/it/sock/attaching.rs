//! Where the programs run, and what becomes of that when another agent comes.
use std::{
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use abi::names;
use datapath::{Attached, Attachment, Datapath, Error, Mechanism, Owner};

use super::scene::{Scene, Service, TCP, listen_at};
use crate::support::place;

fn of_sockets(datapath: &Datapath) -> Vec<Attachment> {
    let mut all = datapath.attachments().unwrap();
    all.retain(|attachment| attachment.owner == Owner::Sockets);
    all
}

fn serve(scene: &mut Scene) {
    scene.serve(&Service::new(1, "10.96.0.10:80", TCP, &["10.1.0.1:8080"]));
}

fn is_translated() -> bool {
    TcpStream::connect("10.96.0.10:80").is_ok()
}

#[test]
fn every_program_is_attached_once_and_found_again() {
    place(|here| {
        let mut scene = Scene::enter(here, "adopt", |_| ());
        serve(&mut scene);
        let _listener = listen_at("10.1.0.1:8080");
        let first = of_sockets(&scene.datapath);
        assert_eq!(first.len(), names::SOCK_PROGRAMS.len());
        assert!(first.iter().all(|attachment| attachment.current
            && !attachment.gone
            && attachment.mechanism == Mechanism::Cgroup));
        let done = scene.datapath.attach_sockets(&scene.group.path).unwrap();
        assert_eq!(done, Attached::Unchanged);
        // The next agent, of the same version and settings.
        let (next, report) = here.open();
        assert!(report.adopted);
        assert_eq!(of_sockets(&next), first);
        let done = next.attach_sockets(&scene.group.path).unwrap();
        assert_eq!(done, Attached::Unchanged);
        assert!(is_translated());
        assert!(
            here.bpffs()
                .join("cilium/socketlb/links/cgroup/cil_sock4_connect")
                .exists()
        );
        // The checks of endpoints know them.
        assert_eq!(next.check(&[]).unwrap(), []);
    });
}

#[test]
fn other_programs_take_the_place_of_those_that_run_without_a_gap() {
    place(|here| {
        let mut scene = Scene::enter(here, "replace", |_| ());
        serve(&mut scene);
        let _listener = listen_at("10.1.0.1:8080");
        let before = of_sockets(&scene.datapath);
        let mut options = here.options();
        options.config.ct_tcp += 1;
        let (mut next, report) = Datapath::prepare(&options).unwrap();
        assert!(!report.adopted);
        assert!(is_translated());
        assert_eq!(next.activate().unwrap().updated, names::SOCK_PROGRAMS.len());
        assert!(is_translated());
        let after = of_sockets(&next);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.link_id, after.link_id);
            assert_ne!(before.program_id, after.program_id);
            assert!(after.current);
        }
        let done = next.attach_sockets(&scene.group.path).unwrap();
        assert_eq!(done, Attached::Unchanged);
    });
}

#[test]
fn another_group_gets_what_the_former_had() {
    place(|here| {
        let mut scene = Scene::enter(here, "move", |_| ());
        serve(&mut scene);
        let _listener = listen_at("10.1.0.1:8080");
        let other = scene.group.beside("moved");
        assert!(is_translated());
        assert_eq!(
            scene.datapath.attach_sockets(&other).unwrap(),
            Attached::New
        );
        assert!(!is_translated());
        let group = scene.group.path.clone();
        assert_eq!(
            scene.datapath.attach_sockets(&group).unwrap(),
            Attached::New
        );
        assert!(is_translated());
        // A group that is gone takes its attachments with it.
        scene.datapath.attach_sockets(&other).unwrap();
        fs::remove_dir(&other).unwrap();
        // The kernel gets round to it a little later.
        let end = Instant::now() + Duration::from_secs(30);
        while !of_sockets(&scene.datapath).iter().all(|link| link.gone) {
            assert!(Instant::now() < end, "{:?}", of_sockets(&scene.datapath));
            thread::sleep(Duration::from_millis(1));
        }
        let problems = scene.datapath.check(&[]).unwrap();
        assert_eq!(problems.len(), names::SOCK_PROGRAMS.len());
        assert_eq!(
            scene.datapath.attach_sockets(&group).unwrap(),
            Attached::New
        );
        assert!(is_translated());
    });
}

#[test]
fn nothing_is_left_when_sockets_are_let_go() {
    place(|here| {
        let mut scene = Scene::enter(here, "detach", |_| ());
        serve(&mut scene);
        let _listener = listen_at("10.1.0.1:8080");
        let connected = TcpStream::connect("10.96.0.10:80").unwrap();
        assert!(scene.datapath.detach_sockets().unwrap());
        assert!(!is_translated());
        assert_eq!(of_sockets(&scene.datapath), []);
        assert!(!scene.datapath.detach_sockets().unwrap());
        // Still connected, and nobody hides to whom.
        let peer = connected.peer_addr().unwrap();
        assert_eq!(peer.to_string(), "10.1.0.1:8080");
        scene.datapath.attach_sockets(&scene.group.path).unwrap();
        assert!(is_translated());
    });
}

#[test]
fn a_directory_that_is_no_group_is_refused() {
    place(|here| {
        let (datapath, _) = here.open();
        let error = datapath.attach_sockets(here.bpffs()).unwrap_err();
        assert!(matches!(error, Error::NotCgroup { .. }), "{error}");
        let missing = here.bpffs().join("missing");
        let error = datapath.attach_sockets(&missing).unwrap_err();
        assert_eq!(error.errno(), Some(nix::errno::Errno::ENOENT as i32));
    });
}
