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

/// Gives what is free of the heap back to the system. The C library keeps all that lies below the last thing in use, so that what a
/// start or a burst took for a moment else stays the process's for good. Takes about a millisecond for 10 MB; does nothing with other
/// libraries.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches only memory that the heap knows to be free.
    unsafe {
        libc::malloc_trim(0);
    }
}
