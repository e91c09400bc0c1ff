//! hypha
fn main() {}
