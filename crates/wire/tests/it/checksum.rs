//! Checksums against those of `etherparse`.
use etherparse::Ipv4Header;
use proptest::{collection::vec, prelude::*};
use wire::checksum::{add, fold, replace16};

proptest! {
    #[test]
    fn a_header_sums_up_to_what_etherparse_writes(src: [u8; 4], dst: [u8; 4], ttl: u8, words in 0usize..=10) {
        let mut header = Ipv4Header::new(0, ttl, etherparse::ip_number::UDP, src, dst).unwrap();
        header.options = [7; 40][..words * 4].try_into().unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes[10..12].fill(0);
        prop_assert_eq!(u16::from_be(!fold(add(0, &bytes))), header.calc_header_checksum());
    }

    #[test]
    fn parts_add_up(bytes in vec(any::<u8>(), 0..100), at in 0usize..50) {
        let at = (at * 2).min(bytes.len() & !1);
        prop_assert_eq!(fold(add(add(0, &bytes[..at]), &bytes[at..])), fold(add(0, &bytes)));
    }

    /// What the programs do when a packet is one hop older.
    #[test]
    fn ageing_keeps_a_header_right(src: [u8; 4], dst: [u8; 4], ttl in 1u8.., proto: u8) {
        let mut header = Ipv4Header::new(0, ttl, etherparse::IpNumber(proto), src, dst).unwrap();
        let word = u16::from_ne_bytes([ttl, proto]);
        let aged = u16::from_ne_bytes([ttl - 1, proto]);
        let sum = header.calc_header_checksum().to_be();
        header.time_to_live -= 1;
        prop_assert_eq!(u16::from_be(replace16(sum, word, aged)), header.calc_header_checksum());
    }
}
