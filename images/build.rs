//! Compiles the guest's first process as a static program and hands its path to
//! the library, which embeds it: the initramfs then needs no libraries, and an
//! installed `vshmem` has no second file to find.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=init");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("init");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition", "2024", "--crate-name", "vshmem_init", "--target", &target])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .arg(&out)
        .arg("init/main.rs")
        .status();
    match status {
        Ok(s) if s.success() => {}
        other => panic!(
            "the guest's init did not compile as a static program ({other:?}); on Debian: \
             apt-get install gcc libc6-dev"
        ),
    }
    println!("cargo::rustc-env=VSHMEM_INIT={}", out.display());
}
