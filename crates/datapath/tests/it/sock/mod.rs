//! Services at sockets, by real sockets: every call is one that a program of a pod or of the node would make.
mod attaching;
mod binding;
mod choice;
mod connecting;
mod crossing;
mod datagrams;
mod nodes;
mod reports;
mod scene;
