//! The module's header is the one made from the Rust layout.
#![allow(missing_docs)]

#[test]
fn the_modules_header_is_made_from_the_layout() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-driver/uio_vshmem/vshmem_region.h");
    let have = std::fs::read_to_string(path).unwrap_or_default();
    let want = vshmem_core::layout::c_header();
    assert!(
        have == want,
        "{path} is old: run `cargo run -p vshmem-core --example header > {path}`"
    );
}
