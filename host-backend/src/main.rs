//! vshmemd.
fn main() {}
