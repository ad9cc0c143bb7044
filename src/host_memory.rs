//! Settings of the host's memory allocator.

/// Puts large tensors on huge pages and keeps freed memory in the process.
///
/// A training step allocates and frees all activations. By default, the C library returns much of this memory to the
/// system and takes it back in the next step, page by page, and the system zeroes each page (docs/benchmarks.md has the
/// cost). The memory that the process keeps is what the next step needs.
///
/// `THP_MEM_ALLOC_ENABLE` is libtorch's variable. It is set here, and not read with the others in `Environment`, because
/// libtorch reads it itself.
///
/// Call it at the start of `main`: it changes the environment, which is only safe with a single thread.
///
/// # Safety
/// No other thread may be running, and no tensor may exist.
pub unsafe fn keep() {
    const THP: &str = "THP_MEM_ALLOC_ENABLE";
    if std::env::var_os(THP).is_none() {
        // SAFETY: the caller guarantees that no other thread reads or writes the environment. libtorch reads the
        // variable at its first allocation. It then aligns tensors of at least 2 MiB to huge pages and advises the
        // system to use them.
        unsafe { std::env::set_var(THP, "1") };
    }
    #[cfg(target_env = "gnu")]
    {
        // The largest threshold that the C library accepts. Larger tensors are mapped and unmapped each time.
        const MMAP_THRESHOLD: i32 = 32 << 20;
        const TOP_PAD: i32 = 64 << 20;
        // SAFETY: the function takes no pointer. If it refuses a parameter, the default stays, which is only slower.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
        }
    }
}
