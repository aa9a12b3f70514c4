//! `vshmem vm run`.

use crate::args::VmRun;
use anyhow::{Context, bail};
use std::env;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use vshmem_vmm::{NetSpec, VmSpec};

/// Runs the guest; the exit code is the command's.
pub fn run(runtime_dir: &Path, args: &VmRun) -> anyhow::Result<i32> {
    let me = env::current_exe().context("cannot find this program, which is the guest's agent")?;
    let mut spec = VmSpec::new(args.program.clone());
    for region in &args.regions {
        let socket = runtime_dir.join(format!("{region}.ivshmem"));
        if !std::fs::metadata(&socket).is_ok_and(|m| m.file_type().is_socket()) {
            bail!(
                "region {region} is not served to VMs: there is no socket {}; start vshmemd with \
                 that region",
                socket.display()
            );
        }
        let socket = std::path::absolute(socket)?;
        spec = spec.with_region(region, &socket, &me);
    }
    spec.name.clone_from(&args.name);
    spec.smp = args.smp;
    spec.mem_mib = args.mem;
    spec.net = args.net.as_deref().map(NetSpec::new);
    if let Some(kernel) = &args.kernel {
        spec.kernel = match kernel.parse() {
            Ok(choice) => choice,
        };
    }
    let words = args.kernel_args.iter().flat_map(|w| w.split_whitespace());
    spec.kernel_args = words.map(str::to_owned).collect();
    spec.reboot = args.reboot;
    spec.stdin = true;
    Ok(vshmem_vmm::run(&spec)?)
}
