//! The process's memory.
use std::{fs, ops::Range};

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

/// Takes the program's code out of the process's memory; what is called from then on comes back from the system's copy of the file. For
/// the end of a start or a burst, which calls a lot that is seldom called else.
pub fn unload_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    for code in own.to_str().into_iter().flat_map(|own| code_of(&maps, own)) {
        // SAFETY: pages of a file that nobody can write to while it runs, and that were never written to here: what they hold
        // when they are touched again is what they hold now.
        unsafe {
            libc::madvise(
                std::ptr::without_provenance_mut(code.start),
                code.len(),
                libc::MADV_DONTNEED,
            );
        }
    }
}

/// Where the code of the file `own` is, by what `/proc/self/maps` says: only what can be executed and not be written.
fn code_of<'a>(maps: &'a str, own: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    maps.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights) = (fields.next()?, fields.next()?);
        let path = line.find('/').map(|at| &line[at..])?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        (rights == "r-xp" && path == own).then_some(number(start)?..number(end)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_itself_is_meant() {
        let maps = "00ce9000-0285e000 r-xp 00ae8000 fe:00 1011 /usr/local/bin/hypha\n\
            0285e000-0295e000 r--p 0265d000 fe:00 1011 /usr/local/bin/hypha\n\
            7f0000000000-7f0000001000 r-xp 00000000 fe:00 7 /usr/lib/libc.so.6\n\
            7f0000001000-7f0000002000 r-xp 00000000 00:00 0 [vdso]\n";
        let mut found = code_of(maps, "/usr/local/bin/hypha");
        assert_eq!(found.next(), Some(0xce9000..0x285e000));
        assert_eq!(found.next(), None);
    }

    #[test]
    fn a_program_goes_on_without_its_code_and_its_free_memory() {
        let before: Vec<u8> = (0..100_000).map(|n| n as u8).collect();
        drop(vec![1; 1 << 20]);
        trim_heap();
        unload_code();
        assert_eq!(before.len(), 100_000);
        assert!(before.iter().enumerate().all(|(n, byte)| n as u8 == *byte));
    }
}
