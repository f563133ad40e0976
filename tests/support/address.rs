//! A loopback address for each test, so that all of them use the stock ports at the same time.

use std::net::Ipv4Addr;

/// The name of the calling test with its module, for [`loopback_of`] and the test's folder.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        name.strip_suffix("::here").unwrap_or(name)
    }};
}

/// The address of a test: from its name and this checkout's folder, so that it is the same each time
/// and differs between tests and between checkouts that are tested at once. Never in 127.0.0.0/16,
/// where other programs live.
pub(crate) fn loopback_of(test: &str) -> Ipv4Addr {
    let hash = fnv(test.bytes().chain(env!("CARGO_MANIFEST_DIR").bytes()));
    let [a, b, c, ..] = hash.to_le_bytes();
    Ipv4Addr::new(127, in_range(a), in_range(b), in_range(c))
}

fn in_range(byte: u8) -> u8 {
    byte.clamp(1, 254)
}

/// FNV-1a, folded so that all bits of the end reach the bytes that are used.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}
