//! Cost of table operations.

fn main() {
    divan::main();
}
