//! A system call, without the C library.
//!
//! `syscall` of the C library may be ours by now (`vshmem-capi` has one, for programs that use it):
//! through it a call of this library would come back to it.

use std::arch::asm;

/// Makes system call `number`: its result, or an errno with a minus sign.
///
/// # Safety
/// As for the system call.
#[inline]
#[must_use]
pub unsafe fn system_call(number: libc::c_long, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as the caller promises; the kernel changes rax, rcx and r11, and what it is told to.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as the caller promises; the kernel changes x0, and what it is told to.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

/// What a register of a system call can hold.
pub trait Word {
    /// As the kernel takes it.
    fn word(self) -> usize;
}

macro_rules! words {
    ($($type:ty)*) => {$(
        impl Word for $type {
            #[inline]
            fn word(self) -> usize {
                // Signed ones are extended, as the C library does.
                self as usize
            }
        }
    )*};
}

words! { i32 u32 i64 u64 isize usize }

impl<T> Word for *const T {
    #[inline]
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Word for *mut T {
    #[inline]
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// Makes a system call with up to six arguments; see [`system_call()`].
#[macro_export]
macro_rules! system_call {
    ($number:expr $(, $arg:expr)* $(,)?) => {{
        let mut args = [0usize; 6];
        let given = [$($crate::Word::word($arg)),*];
        let given: &[usize] = &given;
        args[..given.len()].copy_from_slice(given);
        $crate::system_call($number, args)
    }};
}
