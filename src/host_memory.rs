//! How the host's memory is taken from the system and given back.

/// Lets large tensors lie on huge pages, and freed memory stay with the process.
///
/// A training step allocates and frees every activation. Left to itself the C library gives much of that back to the
/// system each time and takes it again, page by page, each zeroed first: docs/benchmarks.md has what that costs. What
/// the process keeps is what a step needs anyway.
///
/// Belongs at the start of `main`: it changes the environment, which only a single thread may do.
///
/// # Safety
/// No other thread may run, and no tensor may exist.
pub unsafe fn keep() {
    const THP: &str = "THP_MEM_ALLOC_ENABLE";
    if std::env::var_os(THP).is_none() {
        // SAFETY: as the caller promises, nobody else reads or writes the environment. libtorch reads this once, when
        // it first allocates: tensors of 2 MiB and more are then aligned to huge pages and advised to use them.
        unsafe { std::env::set_var(THP, "1") };
    }
    #[cfg(target_env = "gnu")]
    {
        // The largest that the C library accepts; beyond it every tensor is mapped and unmapped anew.
        const MAPPED_FROM: i32 = 32 << 20;
        const TAKEN_AT_ONCE: i32 = 64 << 20;
        // SAFETY: takes no pointer. Where a parameter is refused the default stays, which is slower and not wrong.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, TAKEN_AT_ONCE);
        }
    }
}
