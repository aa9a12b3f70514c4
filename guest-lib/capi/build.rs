//! How the library is linked.

fn main() {
    // Handlers of signals, of `fork` and of threads' ends lead into it: it must stay.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
