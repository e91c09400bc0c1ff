//! The inputs of the fuzz targets, and what they found, in the ordinary tests.

#[path = "../../../../fuzz/checks/proxy_dns.rs"]
mod dns;
#[path = "../../../../fuzz/checks/proxy_http.rs"]
mod http_framing;
#[path = "../../../../fuzz/checks/proxy_kafka.rs"]
mod kafka;
#[path = "../../../../fuzz/checks/proxy_rules.rs"]
mod rules;
#[path = "../../../../fuzz/checks/proxy_snapshot.rs"]
mod snapshot;
#[path = "../../../../fuzz/checks/proxy_tls.rs"]
mod tls;

/// Runs a check over the inputs of its folder.
fn all(target: &str, check: fn(&[u8])) {
    let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{folder} is empty");
}

#[test]
fn every_input_of_the_fuzz_targets() {
    all("proxy_snapshot", snapshot::run);
    all("proxy_http", http_framing::run);
    all("proxy_dns", dns::run);
    all("proxy_kafka", kafka::run);
    all("proxy_rules", rules::run);
    all("proxy_tls", tls::run);
}

#[test]
fn every_bit_of_a_hello_may_be_another() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/proxy_tls");
    let hello = std::fs::read(format!("{folder}/openssl")).unwrap();
    for at in 0..hello.len() {
        tls::run(&hello[..at]);
        for bit in 0..8 {
            let mut other = hello.clone();
            other[at] ^= 1 << bit;
            tls::run(&other);
        }
    }
}
