//! TFRecord framing: the length, the checksum of the length, the bytes, the checksum of the bytes. Numbers are
//! little-endian.

/// The number of bytes of a length.
pub(super) const LENGTH_BYTES: usize = 8;
/// The number of bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// Appends `payload` as one record.
pub(super) fn append(out: &mut Vec<u8>, payload: &[u8]) {
    let length = (payload.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc32c(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked_crc32c(payload).to_le_bytes());
}

/// Returns TFRecord's masked CRC32C: the checksum, rotated by 15 bits, plus a constant. The mask avoids checksums of
/// data that contains its own checksum, which would be weak.
pub(super) fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_layout_of_tensorflow() {
        // crc32c("123456789") is 0xe3069283 (RFC 3720); rotated by 15 bits it is 0x2507c60d.
        assert_eq!(masked_crc32c(b"123456789"), 0x2507_c60d_u32.wrapping_add(0xa282_ead8));
        let mut out = vec![9];
        append(&mut out, b"123456789");
        assert_eq!(out.len(), 1 + 8 + 4 + 9 + 4);
        assert_eq!(out[1..9], [9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&out[13..22], b"123456789");
        assert_eq!(out[22..], masked_crc32c(b"123456789").to_le_bytes());
    }
}
