//! Integration tests of the lab.

mod apiserver;
