//! A hostile peer that writes between any two accesses of every call.
//!
//! A [`Scene`] is a region with much going on in it; a run makes some calls there while a
//! liar writes, and takes everything back. Where it lies, how often and what is drawn from a
//! seed, or from bytes that a fuzzer chose.

mod calls;
mod lies;
mod mem;
mod rng;
mod scene;

pub use rng::Rng;
pub use scene::{Outcome, Scene, told};

use std::cell::{Cell, RefCell};
use std::sync::Once;

/// Accesses, and turns of waiting, that a call may make in regions of this size (up to 3 million
/// words): more is an endless loop.
pub const BOUND: u64 = 1_200_000;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    static SCENE: Scene = Scene::new(0);
}

fn last_panic() -> String {
    PANIC.with_borrow(Clone::clone)
}

/// Runs `f`, whose panics are kept and not shown, nor do they end a fuzzer.
fn expecting<T>(f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if EXPECTED.get() {
                PANIC.with_borrow_mut(|text| *text = info.to_string());
            } else {
                others(info);
            }
        }));
    });
    let before = EXPECTED.replace(true);
    let result = f();
    EXPECTED.set(before);
    result
}

/// Makes calls and tells lies as `data` says.
///
/// # Panics
/// A call panicked, did not end, or did not say what was wrong.
pub fn bytes(data: &[u8]) {
    let (calls, lies) = data.split_at(data.len() / 2);
    SCENE.with(|scene| {
        scene.run(Rng::of(calls), Some(Rng::of(lies)), |name, _, outcome| match outcome {
            Outcome::Done(Err(error)) => {
                assert!(told(&error, scene.r.geometry().len), "{name}: {error:?}");
            }
            Outcome::Done(Ok(())) | Outcome::Died => {}
            Outcome::Endless(trace) => panic!("{name} does not end:\n{trace}"),
            Outcome::Panicked(text) => panic!("{name}: {text}"),
        });
    });
}

/// Runs `f` in a region with much in it, as root, and takes back what it did.
pub fn with_region(
    f: impl FnOnce(&vshmem_core::Region<mem::Hostile>, &mut vshmem_core::Lane, &vshmem_sysv::Caller),
) {
    SCENE.with(|scene| scene.visit(f));
}
