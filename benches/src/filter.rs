//! Which figures are asked for.
use std::{convert::Infallible, str::FromStr};

/// The beginning of the names of figures; empty for all.
#[derive(Clone)]
pub struct Filter(String);

impl Filter {
    /// Whether the figure of this name is asked for, or some of those whose names begin with it.
    pub fn wants(&self, name: &str) -> bool {
        name.starts_with(&self.0) || self.0.starts_with(name)
    }
}

impl FromStr for Filter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_by_their_beginnings() {
        let wants = |filter: &str, name| Filter(filter.to_owned()).wants(name);
        assert!(wants("", "policy/datapath/"));
        assert!(
            wants("datapath", "datapath/vxlan/ipv4/rr") && !wants("datapath", "policy/datapath/")
        );
        assert!(
            wants("policy/applied/p50", "policy/applied/")
                && !wants("policy/applied/p50", "policy/task/")
        );
    }
}
