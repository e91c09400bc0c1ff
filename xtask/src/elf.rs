//! The little that is needed of ELF (64-bit, little-endian): leaving debug sections out, finding a loader's name.

use anyhow::{Context, Result, bail};

const HEADER: usize = 64;
const SECTION: usize = 64;
const SHT_NULL: usize = 0;
const SHT_NOBITS: usize = 8;
const PT_INTERP: usize = 3;

/// The object without its DWARF sections, which only the making of BTF needs and no loader reads. Their entries
/// in the section table stay, emptied, so that no section changes its number.
pub fn without_debug(elf: &[u8]) -> Result<Vec<u8>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("the eBPF object is not a 64-bit little-endian ELF file");
    }
    let (table, count) = (number(elf, 0x28, 8)?, number(elf, 0x3c, 2)?);
    let mut sections = bytes(elf, table, count * SECTION)?.to_vec();
    let names = number(&sections, number(elf, 0x3e, 2)? * SECTION + 24, 8)?;
    let mut out = bytes(elf, 0, HEADER)?.to_vec();
    for section in sections.chunks_exact_mut(SECTION) {
        let name = elf
            .get(names + number(section, 0, 4)?..)
            .context("a section's name is missing")?;
        if [b".debug_".as_slice(), b".rel.debug_"]
            .iter()
            .any(|debug| name.starts_with(debug))
        {
            section.fill(0);
            continue;
        }
        let (kind, at, size) = (
            number(section, 4, 4)?,
            number(section, 24, 8)?,
            number(section, 32, 8)?,
        );
        if kind == SHT_NULL {
            continue;
        }
        let data = if kind == SHT_NOBITS {
            &[]
        } else {
            bytes(elf, at, size)?
        };
        out.resize(
            out.len().next_multiple_of(number(section, 48, 8)?.max(1)),
            0,
        );
        section[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
        out.extend_from_slice(data);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let table = (out.len() as u64).to_le_bytes();
    out[0x28..0x30].copy_from_slice(&table);
    out.extend_from_slice(&sections);
    Ok(out)
}

/// Whether a program asks for a dynamic loader.
pub fn has_interpreter(elf: &[u8]) -> Result<bool> {
    let (start, length, count) = (
        number(elf, 0x20, 8)?,
        number(elf, 0x36, 2)?,
        number(elf, 0x38, 2)?,
    );
    for index in 0..count {
        if number(elf, start + index * length, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

fn bytes(elf: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    elf.get(at..at.saturating_add(length))
        .context("an ELF file ends too early")
}

fn number(elf: &[u8], at: usize, length: usize) -> Result<usize> {
    Ok(bytes(elf, at, length)?
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections: none, names, `.debug_x`, `prog`.
    fn object() -> Vec<u8> {
        let names = b"\0.names\0.debug_x\0prog\0";
        let mut elf = vec![0; HEADER];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut table = vec![0; SECTION];
        for (name, kind, data) in [(1, 3, &names[..]), (8, 1, &[7; 100]), (17, 1, &[9; 10])] {
            let mut section = vec![0; SECTION];
            section[0] = name;
            section[4] = kind;
            section[24..32].copy_from_slice(&(elf.len() as u64).to_le_bytes());
            section[32] = data.len() as u8;
            section[48] = 8;
            elf.extend_from_slice(data);
            table.extend_from_slice(&section);
        }
        let start = elf.len() as u64;
        elf[0x28..0x30].copy_from_slice(&start.to_le_bytes());
        (elf[0x3c], elf[0x3e]) = (4, 1);
        elf.extend_from_slice(&table);
        elf
    }

    #[test]
    fn only_debug_sections_go() {
        let stripped = without_debug(&object()).unwrap();
        assert!(!stripped.windows(8).any(|window| window == [7; 8]));
        let table = number(&stripped, 0x28, 8).unwrap();
        let program = table + 3 * SECTION;
        let at = number(&stripped, program + 24, 8).unwrap();
        assert_eq!((at % 8, &stripped[at..at + 10]), (0, &[9; 10][..]));
        assert_eq!(stripped.len(), table + 4 * SECTION);
        // A second time there is nothing left to do.
        assert_eq!(without_debug(&stripped).unwrap(), stripped);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let object = object();
        for length in 0..object.len() {
            assert!(without_debug(&object[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_dynamic_program_is_told_from_others() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&this).unwrap());
        assert!(!has_interpreter(&object()).unwrap());
    }
}
