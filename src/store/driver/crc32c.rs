//! CRC-32C (Castagnoli), eight bytes a step: the checksum of EROFS superblocks and of seals.

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let (mut n, mut index) = (0, 0_u32);
    while n < 256 {
        let mut value = index;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][n] = value;
        n += 1;
        index += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut n = 0;
        while n < 256 {
            let before = tables[k - 1][n];
            tables[k][n] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            n += 1;
        }
        k += 1;
    }
    tables
}

/// The raw register after `bytes`, from `state`; start with [`START`]. EROFS stores it as it is, not inverted.
pub(super) fn update(mut state: u32, bytes: &[u8]) -> u32 {
    let at = |table: usize, index: u64| -> u32 { TABLES[table][(index & 0xff) as usize] };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(state);
        state = at(7, word)
            ^ at(6, word >> 8)
            ^ at(5, word >> 16)
            ^ at(4, word >> 24)
            ^ at(3, word >> 32)
            ^ at(2, word >> 40)
            ^ at(1, word >> 48)
            ^ at(0, word >> 56);
    }
    rest.iter().fold(state, |state, byte| (state >> 8) ^ at(0, u64::from(state) ^ u64::from(*byte)))
}

/// The register before the first byte.
pub(super) const START: u32 = !0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_polynomial_comes_out_in_any_split() {
        let text = b"123456789";
        for split in 0..text.len() {
            let (a, b) = text.split_at(split);
            assert_eq!(!update(update(START, a), b), 0xe306_9283);
        }
    }
}
