//! The stages of `cargo xtask test`, in the order in which they run.

use anyhow::Result;

use crate::cargo::{cargo, has_nightly, host_target, nightly, own_target, root};
use crate::packages;
use crate::stage::{Count, libtest, single};

/// A named part of the test suite.
pub struct Stage {
    /// What `--skip` and `--only` call it.
    pub name: &'static str,
    /// What it covers, in a few words.
    pub about: &'static str,
    /// Runs it.
    pub run: fn() -> Result<Count>,
}

/// All of them.
pub const STAGES: &[Stage] = &[
    Stage { name: "check", about: "formatting, clippy, documentation", run: check },
    Stage { name: "unit", about: "unit, documentation and layer tests", run: unit },
    Stage { name: "cli", about: "what the commands print", run: cli },
    Stage { name: "loom", about: "all interleavings of the primitives", run: loom },
    Stage { name: "sanitizers", about: "address and thread sanitizers", run: sanitizers },
    Stage {
        name: "conformance",
        about: "C programs on the kernel and on vshmem",
        run: conformance,
    },
    Stage { name: "oracle", about: "random programs on the kernel and on vshmem", run: oracle },
    Stage { name: "trap", about: "programs that no library reaches", run: trap },
    Stage { name: "bad-input", about: "what is wrong is named and leaves nothing", run: bad_input },
    Stage { name: "survival", about: "storms of deaths, stops and lies", run: survival },
    Stage { name: "users", about: "PostgreSQL and others, unmodified", run: users },
    Stage { name: "vm", about: "two guests, and four", run: vm },
];

fn check() -> Result<Count> {
    let mut count = single(&mut cargo(["fmt", "--all", "--check"]))?;
    count +=
        single(&mut cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    count += single(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(count)
}

fn unit() -> Result<Count> {
    // Some of these start QEMU and boot guests.
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::GUESTS)?;
    // Those with stages of their own are left to them.
    let mut all = cargo([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--exclude",
        "vshmem-tests",
        "--exclude",
        "vshmem-cli",
    ]);
    let mut count = libtest(&mut all)?;
    count += libtest(&mut cargo([
        "test",
        "-p",
        "vshmem-tests",
        "--lib",
        "--test",
        "layers",
        "--test",
        "promises",
    ]))?;
    Ok(count)
}

fn cli() -> Result<Count> {
    libtest(&mut cargo(["test", "-p", "vshmem-cli", "--no-fail-fast"]))
}

fn loom() -> Result<Count> {
    let mut model =
        cargo(["test", "-p", "vshmem-core", "-p", "vshmem-sysv", "--release", "--lib", "loom"]);
    model.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", own_target("loom"));
    libtest(&mut model)
}

fn sanitizers() -> Result<Count> {
    if !has_nightly() {
        eprintln!(
            "skipped: the sanitizers need a nightly toolchain (rustup toolchain install nightly)"
        );
        return Ok(Count::SKIPPED);
    }
    let target = host_target();
    let arguments =
        ["test", "-p", "vshmem-core", "-p", "vshmem-sysv", "--no-fail-fast", "--target", &target];
    // `stops` stops every call at every access: as safe code that the unit stage runs, and too long
    // here.
    let mut address = nightly(arguments);
    address.args(["--lib", "--test", "crash", "--test", "hostile"]);
    address.env("RUSTFLAGS", "-Zsanitizer=address");
    let mut count = libtest(address.env("CARGO_TARGET_DIR", own_target("asan")))?;
    // The standard library stays as it is: what it does is not watched, and
    // fences are not modelled. The crash tests have one thread at a time.
    let mut thread = nightly(arguments);
    thread
        .arg("--lib")
        .env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer");
    thread
        .env("TSAN_OPTIONS", format!("suppressions={}", root().join("tests/tsan.supp").display()));
    count += libtest(thread.env("CARGO_TARGET_DIR", own_target("tsan")))?;
    Ok(count)
}

fn conformance() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::PROC)?;
    let mut both = cargo(["test", "-p", "vshmem-tests", "--no-fail-fast"]);
    libtest(both.args([
        "--test",
        "conformance",
        "--test",
        "regions",
        "--test",
        "unwind",
        "--test",
        "proc",
    ]))
}

fn oracle() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    libtest(&mut cargo(["test", "-p", "vshmem-tests", "--test", "oracle"]))
}

fn trap() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    libtest(&mut cargo(["test", "-p", "vshmem-tests", "--test", "trap"]))
}

fn bad_input() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    libtest(&mut cargo(["test", "-p", "vshmem-tests", "--test", "bad_input"]))
}

fn survival() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::GUESTS)?;
    libtest(&mut cargo(["test", "-p", "vshmem-tests", "--test", "survival"]))
}

fn users() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::GUESTS)?;
    packages::ensure_users()?;
    libtest(&mut cargo(["test", "-p", "vshmem-tests", "--test", "users"]))
}

fn vm() -> Result<Count> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::GUESTS)?;
    packages::ensure(packages::PROC)?;
    libtest(&mut cargo(["test", "-p", "vshmem-tests", "--test", "vm"]))
}
