//! The module and its crate by themselves: their own tests, in guests without an agent.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vshmem_tests::build;
use vshmem_tests::driver::{end_agent, module_file};
use vshmem_tests::guests::{Guests, Host};

use crate::LIMIT;

/// Its upper half is scribbled over, where an empty region has nothing yet.
const SIZE: &str = "128M";
/// All of them, emulated on a busy machine; each has a watchdog of its own.
const ALL: Duration = Duration::from_secs(400);

/// One more device of the family, which is not for the module.
const WITH_PLAIN: &str = "#!/bin/sh\nexec qemu-system-x86_64 \"$@\" \
    -object memory-backend-ram,id=plain,share=on,size=2M -device ivshmem-plain,memdev=plain\n";

fn driver_test(host: &Host) -> Result<()> {
    let source = build::root().join("guest-driver/tests/driver_test.c");
    build::compile_static(&source, host.folder()).map(drop)
}

pub fn the_module_and_its_crate_pass_their_own_tests() -> Result<()> {
    let host = Host::start("scratch", SIZE)?;
    driver_test(&host)?;
    build::example("vshmem-driver", "driver_check", host.folder())?;
    let qemu = host.folder().join("qemu");
    std::fs::write(&qemu, WITH_PLAIN)?;
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755))?;
    let mut guests = Guests::new(&host);
    let guest = guests.shell_that_says("booted", "scratch", &["--smp", "2"], Some(&qemu))?;
    guests.expect(guest, "booted", LIMIT)?;
    end_agent(&mut guests, guest, LIMIT)?;

    let (status, said) = guests.ask(guest, "./driver_check", LIMIT)?;
    ensure!(status == 0, "driver_check: {status}\n{}", said.join("\n"));
    let file = module_file(&mut guests, guest, LIMIT)?;
    let (status, said) = guests.ask(guest, &format!("./driver_test --module {file}"), ALL)?;
    ensure!(status == 0, "driver_test: {status}\n{}", said.join("\n"));
    let last = said.last().context("driver_test says nothing")?;
    eprintln!("  {last}");
    ensure!(last.ends_with(" 0 skipped"), "{}", said.join("\n"));
    guests.tell(guest, "exit 0")?;
    guests.finish(LIMIT)?;
    host.stop()
}

/// Sleeping, doorbells, events and atomics between two machines.
pub fn two_guests_meet_through_the_module_alone() -> Result<()> {
    let host = Host::start("scratch", SIZE)?;
    driver_test(&host)?;
    let mut guests = Guests::new(&host);
    for name in ["a", "b"] {
        guests.shell(name)?;
    }
    for guest in 0..2 {
        let (status, _) = guests.ask(guest, "true", LIMIT)?;
        ensure!(status == 0, "a shell that fails at nothing");
        end_agent(&mut guests, guest, LIMIT)?;
    }
    for guest in 0..2 {
        guests.tell(guest, &format!("./driver_test pingpong {guest} 100; exit $?"))?;
    }
    for line in guests.finish(LIMIT)?.concat() {
        eprintln!("  {line}");
    }
    host.stop()
}
