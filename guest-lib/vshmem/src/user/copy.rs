//! The instructions that touch a caller's memory, and where each goes on when that is not there.
//!
//! An ordinary program dies of such an access. Here the handler of the signal ([`super::fault`])
//! finds the instruction in its table and has it go on elsewhere: the kernel's own way of reading
//! what a caller names. So a good pointer costs nothing to check.

use crate::interrupt::MASK_AT;
use std::arch::global_asm;

/// What a thread knows of its signal mask: signals of bad addresses get through.
pub(crate) const OPEN: u32 = 1;

// vshmem_copy. rdi: to, rsi: from, rdx: bytes; how many were not copied. Words first, and where one
// cannot be copied whole, its bytes up to the one that is not there.
//
// vshmem_fetch. rdi: from; six bytes, or -1.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.vshmem_copy, \"ax\", %progbits",
    ".globl vshmem_copy, vshmem_copy_long, vshmem_copy_words, vshmem_copy_bytes, vshmem_copy_end",
    ".hidden vshmem_copy, vshmem_copy_long, vshmem_copy_words, vshmem_copy_bytes, vshmem_copy_end",
    ".type vshmem_copy, %function",
    "vshmem_copy:",
    ".cfi_startproc",
    "mov rcx, rdx",
    "cmp rcx, 512",
    "jb vshmem_copy_words",
    "vshmem_copy_long:",
    "rep movsb",
    "jmp vshmem_copy_end",
    "vshmem_copy_words:",
    "cmp rcx, 8",
    "jb 2f",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rcx, 8",
    "jmp vshmem_copy_words",
    "2: cmp rcx, 4",
    "jb vshmem_copy_bytes",
    "mov eax, [rsi]",
    "mov [rdi], eax",
    "add rsi, 4",
    "add rdi, 4",
    "sub rcx, 4",
    "vshmem_copy_bytes:",
    "test rcx, rcx",
    "jz vshmem_copy_end",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rcx",
    "jmp vshmem_copy_bytes",
    "vshmem_copy_end:",
    "mov rax, rcx",
    "ret",
    ".cfi_endproc",
    ".size vshmem_copy, . - vshmem_copy",
    ".globl vshmem_fetch, vshmem_fetch_begin, vshmem_fetch_end, vshmem_fetch_failed",
    ".hidden vshmem_fetch, vshmem_fetch_begin, vshmem_fetch_end, vshmem_fetch_failed",
    ".type vshmem_fetch, %function",
    ".balign 16",
    "vshmem_fetch:",
    ".cfi_startproc",
    "mov rdx, [rip + vshmem_thread_state@GOTTPOFF]",
    "cmp dword ptr fs:[rdx + {mask}], {open}",
    "jne vshmem_fetch_failed",
    "vshmem_fetch_begin:",
    "mov eax, [rdi]",
    "movzx edx, word ptr [rdi + 4]",
    "vshmem_fetch_end:",
    "shl rdx, 32",
    "or rax, rdx",
    "ret",
    "vshmem_fetch_failed:",
    "mov rax, -1",
    "ret",
    ".cfi_endproc",
    ".size vshmem_fetch, . - vshmem_fetch",
    ".popsection",
    mask = const MASK_AT,
    open = const OPEN,
);

// As above, with x0, x1 and x2.
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text.vshmem_copy, \"ax\", %progbits",
    ".globl vshmem_copy, vshmem_copy_long, vshmem_copy_words, vshmem_copy_bytes, vshmem_copy_end",
    ".hidden vshmem_copy, vshmem_copy_long, vshmem_copy_words, vshmem_copy_bytes, vshmem_copy_end",
    ".type vshmem_copy, %function",
    "vshmem_copy:",
    ".cfi_startproc",
    "vshmem_copy_long:",
    "vshmem_copy_words:",
    "cmp x2, #8",
    "b.lo 2f",
    "ldr x3, [x1]",
    "str x3, [x0]",
    "add x1, x1, #8",
    "add x0, x0, #8",
    "sub x2, x2, #8",
    "b vshmem_copy_words",
    "2: cmp x2, #4",
    "b.lo vshmem_copy_bytes",
    "ldr w3, [x1]",
    "str w3, [x0]",
    "add x1, x1, #4",
    "add x0, x0, #4",
    "sub x2, x2, #4",
    "vshmem_copy_bytes:",
    "cbz x2, vshmem_copy_end",
    "ldrb w3, [x1]",
    "strb w3, [x0]",
    "add x1, x1, #1",
    "add x0, x0, #1",
    "sub x2, x2, #1",
    "b vshmem_copy_bytes",
    "vshmem_copy_end:",
    "mov x0, x2",
    "ret",
    ".cfi_endproc",
    ".size vshmem_copy, . - vshmem_copy",
    ".globl vshmem_fetch, vshmem_fetch_begin, vshmem_fetch_end, vshmem_fetch_failed",
    ".hidden vshmem_fetch, vshmem_fetch_begin, vshmem_fetch_end, vshmem_fetch_failed",
    ".type vshmem_fetch, %function",
    "vshmem_fetch:",
    ".cfi_startproc",
    "mrs x1, tpidr_el0",
    "adrp x2, :gottprel:vshmem_thread_state",
    "ldr x2, [x2, :gottprel_lo12:vshmem_thread_state]",
    "add x1, x1, x2",
    "ldr w1, [x1, #{mask}]",
    "cmp w1, #{open}",
    "b.ne vshmem_fetch_failed",
    "vshmem_fetch_begin:",
    "ldr w1, [x0]",
    "ldrh w2, [x0, #4]",
    "vshmem_fetch_end:",
    "orr x0, x1, x2, lsl #32",
    "ret",
    "vshmem_fetch_failed:",
    "mov x0, #-1",
    "ret",
    ".cfi_endproc",
    ".size vshmem_fetch, . - vshmem_fetch",
    ".popsection",
    mask = const MASK_AT,
    open = const OPEN,
);

unsafe extern "C" {
    /// Bytes not copied.
    pub(super) fn vshmem_copy(to: *mut u8, from: *const u8, n: usize) -> usize;
    /// Six bytes in the low bits; -1 where they are not there, or the thread is not [`OPEN`].
    pub(super) safe fn vshmem_fetch(from: *const u8) -> i64;
    safe static vshmem_copy_long: u8;
    safe static vshmem_copy_words: u8;
    safe static vshmem_copy_bytes: u8;
    safe static vshmem_copy_end: u8;
    safe static vshmem_fetch_begin: u8;
    safe static vshmem_fetch_end: u8;
    safe static vshmem_fetch_failed: u8;
}

/// Where an instruction that faulted in `start..end` goes on.
struct Fixup {
    start: &'static u8,
    end: &'static u8,
    to: &'static u8,
}

fn fixups() -> [Fixup; 4] {
    let from = |start, end, to| Fixup { start, end, to };
    [
        from(&vshmem_fetch_begin, &vshmem_fetch_end, &vshmem_fetch_failed),
        from(&vshmem_copy_bytes, &vshmem_copy_end, &vshmem_copy_end),
        from(&vshmem_copy_words, &vshmem_copy_bytes, &vshmem_copy_bytes),
        from(&vshmem_copy_long, &vshmem_copy_words, &vshmem_copy_end),
    ]
}

/// Where the instruction at `at` goes on after a fault; `None` for one that is not ours.
pub(crate) fn fixup(at: usize) -> Option<usize> {
    let address = |at: &'static u8| std::ptr::from_ref(at).addr();
    let covers = |f: &Fixup| (address(f.start)..address(f.end)).contains(&at);
    fixups().into_iter().find(covers).map(|f| address(f.to))
}
