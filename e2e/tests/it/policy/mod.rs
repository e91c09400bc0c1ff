//! Network policy with real packets: every scenario's whole truth table, no moment in between, the demo of the notes, faults.

mod faults;
mod gaps;
mod scenarios;
mod star_wars;
mod table;
