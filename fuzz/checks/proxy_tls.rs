//! The first message of a client of TLS: it is none, or it names a server that a rule can name; pieces make no difference.

use hypha_proxy::tls::{HELLO_MAX, Reader};

pub fn run(data: &[u8]) {
    let whole = Reader::default().push(data);
    let mut reader = Reader::default();
    let mut pieces = Ok(None);
    for byte in data {
        pieces = reader.push(&[*byte]);
        if pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, pieces);
    if let Ok(Some(hello)) = whole {
        let name = hello.server_name.unwrap_or_default();
        assert!(name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(name, name.to_ascii_lowercase());
    } else if whole == Ok(None) {
        // Nobody is waited for without end.
        assert!(data.len() <= 6 * (HELLO_MAX + 4) + 4);
    }
}
