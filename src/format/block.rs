//! What segment header, footer and META slot share: magic, version, and a CRC over all of it.
//!
//! Invariant: these three stand at the same places in every version, so a newer version is told
//! from damage. Bytes: FORMAT.md, "Blocks with a magic".

use super::{Bad, FORMAT_VERSION, le};

/// Where the fields of a block begin, after what all blocks share.
pub(super) const FIELDS: usize = 16;

const VERSION: usize = 8;
const CRC: usize = 12;

/// Completes a block whose fields are written.
pub(super) fn seal(block: &mut [u8], magic: &[u8; 8], salt: &[u8]) {
    le::put(block, 0, magic);
    le::put_u32(block, VERSION, FORMAT_VERSION);
    let crc = crc(block, salt);
    le::put_u32(block, CRC, crc);
}

/// Checks what `seal` wrote; after it, the fields may be believed.
pub(super) fn check(block: &[u8], magic: &[u8; 8], salt: &[u8]) -> Result<(), Bad> {
    let found = block.first_chunk::<8>().ok_or(Bad::Short)?;
    if found == &[0; 8] {
        return Err(Bad::Nothing);
    }
    if found != magic {
        return Err(Bad::Magic);
    }
    if block.len() < FIELDS {
        return Err(Bad::Short);
    }
    if le::u32_at(block, CRC) != crc(block, salt) {
        return Err(Bad::Checksum);
    }
    match le::u32_at(block, VERSION) {
        FORMAT_VERSION => Ok(()),
        version => Err(Bad::Version(version)),
    }
}

/// Refuses a reserved byte in use: a later build gave it a meaning this one can't know.
pub(super) fn check_zero(reserved: &[u8]) -> Result<(), Bad> {
    // Without a way out in the middle it is one pass of wide registers.
    let zero = reserved.iter().fold(0, |all, byte| all | byte) == 0;
    if zero { Ok(()) } else { Err(Bad::Version(FORMAT_VERSION)) }
}

/// A flag byte; anything but 0 and 1 is reserved.
pub(super) fn flag(byte: u8) -> Result<bool, Bad> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Bad::Version(FORMAT_VERSION)),
    }
}

/// Whether a log can have blocks of `size` bytes.
pub(super) fn is_block_size(size: u64) -> bool {
    size.is_power_of_two() && (4 << 10..=64 << 10).contains(&size)
}

fn crc(block: &[u8], salt: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(salt);
    crc.update(&block[..CRC]);
    crc.update(&block[FIELDS..]);
    crc.finalize()
}
