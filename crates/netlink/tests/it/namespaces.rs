use std::{path::PathBuf, process};

use hypha_netlink as netlink;
use netlink::{Handle, NewLink, netns};

/// A path for a namespace; what is there is removed when dropped.
struct Named(PathBuf);

impl Named {
    fn new(tag: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root for network namespaces");
            return None;
        }
        Some(Self(
            std::env::temp_dir().join(format!("hypha-netns-{tag}-{}", process::id())),
        ))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        netns::delete_at(&self.0).unwrap();
    }
}

#[test]
fn made_by_name_found_by_name_removed_by_name() {
    let Some(named) = Named::new("life") else {
        return;
    };
    let ns = netns::create_at(&named.0).unwrap();
    assert!(!netns::same(&ns, netns::current().unwrap()).unwrap());
    assert!(netns::same(&ns, netns::open(&named.0).unwrap()).unwrap());
    assert!(netns::create_at(&named.0).is_err(), "the name is taken");
    assert!(
        netns::same(&ns, netns::open(&named.0).unwrap()).unwrap(),
        "and the first one is intact"
    );
    let mut handle = Handle::in_netns_path(&named.0).unwrap();
    handle.link_create(&NewLink::bridge("d0")).unwrap();
    netns::delete_at(&named.0).unwrap();
    netns::delete_at(&named.0).unwrap();
    assert!(netns::open(&named.0).is_err());
    assert!(
        handle.find_link("d0").unwrap().is_some(),
        "an open handle keeps it"
    );
}

#[test]
fn entering_leaves_the_caller_where_it_is() {
    let Some(named) = Named::new("enter") else {
        return;
    };
    let home = netns::current().unwrap().inode().unwrap();
    let ns = netns::create_at(&named.0).unwrap();
    let inside = ns
        .run(|| netns::current().unwrap().inode().unwrap())
        .unwrap();
    assert_eq!(inside, ns.inode().unwrap());
    let visited = netns::visit(&ns, || netns::current().unwrap().inode().unwrap()).unwrap();
    assert_eq!(visited, inside);
    assert_eq!(netns::current().unwrap().inode().unwrap(), home);
}

#[test]
fn files_that_are_no_namespace_are_refused() {
    let error = netns::open("/proc/self/status").unwrap_err();
    assert!(
        error.to_string().contains("not a namespace file"),
        "{error}"
    );
    let error = netns::open("/nonexistent/ns").unwrap_err();
    assert!(
        error.is_not_found() && error.to_string().contains("/nonexistent/ns"),
        "{error}"
    );
}
