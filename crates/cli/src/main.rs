//! The `hypha` command.
mod connectivity;
mod jsonpath;
mod output;
mod table;
fn main() {}
