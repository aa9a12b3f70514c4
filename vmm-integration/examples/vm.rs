//! Runs one command in a guest: `cargo run -p vshmem-vmm --example vm -- uname -a`.
//!
//! Environment: `NET` (segment), `NET_BACKEND`, `SMP`, `MEM`, `KERNEL` (such as `6.12`),
//! `ACCEL` (kvm or tcg), `REGION` with `SOCKET` and `VSHMEM`.

use std::env::{args_os, var};
use std::process::ExitCode;

use vshmem_vmm::{Accel, NetBackend, NetSpec, VmSpec};

fn main() -> ExitCode {
    let mut spec = VmSpec::new(args_os().skip(1));
    spec.stdin = true;
    let backend = match var("NET_BACKEND").as_deref() {
        Ok("tap") => NetBackend::Tap,
        Ok("pair") => NetBackend::Pair,
        Ok("multicast") => NetBackend::Multicast,
        _ => NetBackend::Auto,
    };
    spec.net = var("NET").ok().map(|name| NetSpec { backend, ..NetSpec::new(&name) });
    spec.smp = var("SMP").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    spec.mem_mib = var("MEM").ok().and_then(|n| n.parse().ok()).unwrap_or(512);
    spec.kernel = var("KERNEL").unwrap_or_default().parse().unwrap_or_default();
    spec.accel = var("ACCEL").ok().map(|a| if a == "kvm" { Accel::Kvm } else { Accel::Tcg });
    if let (Ok(region), Ok(socket), Ok(vshmem)) = (var("REGION"), var("SOCKET"), var("VSHMEM")) {
        spec = spec.with_region(&region, socket.as_ref(), vshmem.as_ref());
    }
    match vshmem_vmm::run(&spec) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            eprintln!("vm: {e}");
            ExitCode::FAILURE
        }
    }
}
