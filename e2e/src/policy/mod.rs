//! Network policy tried with packets: pods that answer ([`stage`]), a prober that asks every question at once ([`probe`]), what
//! the reference model says of each ([`expect`]), the objects ([`objects`]), and traffic that goes on while something
//! changes ([`hammer`]).

pub mod expect;
pub mod hammer;
pub mod objects;
pub mod probe;
mod raw;
pub mod stage;

pub use probe::Cell;
pub use stage::Stage;
