//! The process's heap.

/// One heap for all threads. The C library else gives nearly every thread its own, and what one has freed no other can use: megabytes in
/// a process that seldom allocates on two threads at a time. To be called before there are threads; does nothing with other libraries.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers and touches no memory of ours; it only refuses what it does not know.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
