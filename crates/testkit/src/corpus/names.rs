//! Awkward names, and names that are equal in btrfs' directory hash.

use std::collections::HashMap;

use crate::random::Rng;

/// Names that break programs that split, quote or decode.
pub(super) const ODD: [&[u8]; 22] = [
    b"with space",
    b" leading and trailing ",
    b"new\nline",
    b"tab\tand\rreturn",
    b"quote'\"`",
    b"$HOME",
    b"*?[a-z]{x,y}",
    b"-rf",
    b"--",
    b"...",
    b".hidden",
    b"back\\slash",
    b"colon:semicolon;",
    b"percent%20%s%n",
    b"\xff\xfe\xfd",
    b"latin1-\xe9\xe8",
    b"cut-utf8-\xe2\x82",
    b"overlong-\xc0\xaf",
    b"surrogate-\xed\xa0\x80",
    b"utf8-\xc3\xa9-nfc",
    b"utf8-e\xcc\x81-nfd",
    b"\x01\x02\x1b[31m",
];

/// CRC-32C as btrfs uses it for names: the register begins as `register`, and is not inverted at the end.
#[must_use]
pub fn crc32c(register: u32, data: &[u8]) -> u32 {
    let mut crc = register;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    crc
}

/// Pairs of names that begin with `prefix` and have the same directory hash, and so share one item on disk.
#[must_use]
pub fn colliding_names(prefix: &[u8], pairs: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let begin = crc32c(!1, prefix);
    let mut rng = Rng::new(0x5eed);
    let mut seen: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut found = vec![];
    while found.len() < pairs {
        let tail: Vec<u8> = (0..8).map(|_| *rng.pick(b"abcdefghijklmnopqrstuvwxyz")).collect();
        let name = [prefix, &tail].concat();
        match seen.insert(crc32c(begin, &tail), name.clone()) {
            Some(other) if other != name => found.push((other, name)),
            _ => {}
        }
    }
    found
}
