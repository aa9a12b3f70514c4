//! The unwinder of the process, loaded when something unwinds.
//!
//! Rust's standard library calls `libgcc_s`, so every program that this library is preloaded into
//! would load that too: 170 us of the 230 that the preload added to the start of a small program.
//! Nothing unwinds here unless a thread is cancelled in a call, or something panics. So the names
//! are defined here, hidden from everybody else: each looks the real one up and jumps there, with
//! stack and arguments as they came, so that the unwinder sees its true caller. The C library
//! itself loads `libgcc_s` in the same way for `pthread_cancel`.

use libc::{c_char, c_void};

/// Where the real function is.
extern "C" fn next(name: *const c_char) -> *mut c_void {
    // Already there in a program of C++, or one that cancels threads. Never closed: it must stay.
    // SAFETY: strings with their ends.
    let found = unsafe {
        let library = libc::dlopen(c"libgcc_s.so.1".as_ptr(), libc::RTLD_NOW);
        if library.is_null() { library } else { libc::dlsym(library, name) }
    };
    if found.is_null() {
        let text =
            b"vshmem: libgcc_s.so.1 is needed to unwind and cannot be loaded: install libgcc-s1\n";
        // SAFETY: the text's bytes; then the process ends, which nothing else can do for a stack
        // that cannot be unwound.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::abort();
        }
    }
    found
}

/// Defines a name that jumps to what [`next`] finds under it. The three registers are all the
/// arguments that any of them has; pushing them aligns the stack for the call.
macro_rules! jumps {
    ($($name:literal)*) => {$(
        std::arch::global_asm!(
            concat!(".globl ", $name),
            concat!(".hidden ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            ".cfi_startproc",
            "push rdi",
            ".cfi_adjust_cfa_offset 8",
            "push rsi",
            ".cfi_adjust_cfa_offset 8",
            "push rdx",
            ".cfi_adjust_cfa_offset 8",
            "lea rdi, [rip + 2f]",
            "call {next}",
            "pop rdx",
            ".cfi_adjust_cfa_offset -8",
            "pop rsi",
            ".cfi_adjust_cfa_offset -8",
            "pop rdi",
            ".cfi_adjust_cfa_offset -8",
            "jmp rax",
            ".cfi_endproc",
            "2:",
            concat!(".asciz \"", $name, "\""),
            concat!(".size ", $name, ", . - ", $name),
            next = sym next,
        );
    )*};
}

jumps! {
    "_Unwind_Backtrace"
    "_Unwind_DeleteException"
    "_Unwind_GetCFA"
    "_Unwind_GetDataRelBase"
    "_Unwind_GetIP"
    "_Unwind_GetIPInfo"
    "_Unwind_GetLanguageSpecificData"
    "_Unwind_GetRegionStart"
    "_Unwind_GetTextRelBase"
    "_Unwind_RaiseException"
    "_Unwind_Resume"
    "_Unwind_SetGR"
    "_Unwind_SetIP"
}
