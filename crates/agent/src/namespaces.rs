//! What is to be done inside of the pods' network namespaces, which the agent itself may not enter.
use netlink::{
    netns,
    sock_diag::{SockDiag, is_unsupported},
};
use std::collections::BTreeSet;

/// Enters namespaces.
#[derive(Clone, Debug, Default)]
pub struct Namespaces;

impl Namespaces {
    /// What the kernel's programs call the namespace at a path; none where nobody can tell.
    #[must_use]
    pub fn cookie(&self, path: &str) -> Option<u64> {
        let found = netns::open(path).and_then(|ns| ns.run(datapath::netns_cookie));
        found.ok()?.ok()?
    }

    /// Ends those sockets that are in the namespace at a path; gives them.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn end(&self, path: &str, cookies: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
        let ended = netns::open(path).and_then(|ns| ns.run(|| end_here(cookies)));
        ended.map_err(|error| error.to_string())?
    }
}

/// Ends those sockets that are in the calling thread's namespace; gives them.
///
/// # Errors
/// The kernel refuses, or cannot do it at all.
pub fn end_here(cookies: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
    let ended = || -> netlink::Result<BTreeSet<u64>> {
        let mut diag = SockDiag::new()?;
        let mut ended = BTreeSet::new();
        for socket in diag.connected_udp()? {
            if cookies.contains(&socket.cookie) {
                diag.destroy(&socket)?;
                ended.insert(socket.cookie);
            }
        }
        Ok(ended)
    };
    ended().map_err(|error| match is_unsupported(&error) {
        true => "the kernel cannot end sockets (CONFIG_INET_DIAG_DESTROY)".to_owned(),
        false => error.to_string(),
    })
}
