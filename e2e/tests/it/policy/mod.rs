//! Network policy with real packets: every scenario's whole truth table, no moment in between, the demo of the notes, settings,
//! single endpoints, nodes, faults.

mod admin;
mod endpoints;
mod faults;
mod gaps;
mod hosts;
mod scenarios;
mod settings;
mod star_wars;
mod table;
mod theatre;
