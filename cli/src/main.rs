//! vshmem.
fn main() {}
