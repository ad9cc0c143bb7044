//! Values of pixels in [-1, 1], ordered by channel. Where the processor has AVX2 and FMA, the loops use them. Both forms
//! have the same bits.

use std::mem::MaybeUninit;

/// The values of the 256 bytes in [-1, 1], as the published implementation computes them: `x / 127.5 - 1` in float32.
const SCALED: [f32; 256] = {
    let mut scaled = [0.0; 256];
    let mut value = 0;
    while value < 256 {
        scaled[value] = value as f32 / 127.5 - 1.0;
        value += 1;
    }
    scaled
};

/// Appends the values of `bytes`, whose `channels` alternate, to `values`, one channel after another.
pub(crate) fn append(bytes: &[u8], channels: usize, values: &mut Vec<f32>) {
    let num = bytes.len() - bytes.len() % channels;
    values.reserve(num);
    let out = &mut values.spare_capacity_mut()[..num];
    write(&bytes[..num], channels, out);
    // SAFETY: all of them were written.
    unsafe { values.set_len(values.len() + num) };
}

/// Writes every value of `out`.
fn write(bytes: &[u8], channels: usize, out: &mut [MaybeUninit<f32>]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe { write_avx2(bytes, channels, out) };
    }
    write_portable(bytes, channels, out);
}

fn write_portable(bytes: &[u8], channels: usize, out: &mut [MaybeUninit<f32>]) {
    let num = bytes.len() / channels;
    for (channel, plane) in out.chunks_exact_mut(num.max(1)).enumerate() {
        write_plane(bytes.chunks_exact(channels).map(|pixel| pixel[channel]), plane);
    }
}

fn write_plane(bytes: impl Iterator<Item = u8>, plane: &mut [MaybeUninit<f32>]) {
    for (out, byte) in plane.iter_mut().zip(bytes) {
        out.write(SCALED[usize::from(byte)]);
    }
}

/// The pixels that are taken apart at a time.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 32;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn write_avx2(bytes: &[u8], channels: usize, out: &mut [MaybeUninit<f32>]) {
    match channels {
        1 => {
            let (blocks, rest) = bytes.as_chunks::<BLOCK>();
            let (out, rest_out) = out.as_chunks_mut();
            blocks.iter().zip(out).for_each(|(block, out)| scale(block, out));
            write_portable(rest, 1, rest_out);
        }
        3 => {
            let (red, others) = out.split_at_mut(bytes.len() / 3);
            let (green, blue) = others.split_at_mut(red.len());
            let (blocks, rest) = bytes.as_chunks::<{ 3 * BLOCK }>();
            let (reds, rest_red) = red.as_chunks_mut();
            let (greens, rest_green) = green.as_chunks_mut();
            let (blues, rest_blue) = blue.as_chunks_mut();
            for (((block, red), green), blue) in blocks.iter().zip(reds).zip(greens).zip(blues) {
                let mut apart = [[0; BLOCK]; 3];
                for place in 0..BLOCK {
                    apart[0][place] = block[3 * place];
                    apart[1][place] = block[3 * place + 1];
                    apart[2][place] = block[3 * place + 2];
                }
                scale(&apart[0], red);
                scale(&apart[1], green);
                scale(&apart[2], blue);
            }
            for (channel, plane) in [rest_red, rest_green, rest_blue].into_iter().enumerate() {
                write_plane(rest.chunks_exact(3).map(|pixel| pixel[channel]), plane);
            }
        }
        _ => write_portable(bytes, channels, out),
    }
}

/// Writes the values of bytes, by a product with 1 / 127.5 and a correction, which gives the rounded quotient of each of the
/// 256 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn scale(bytes: &[u8; BLOCK], out: &mut [MaybeUninit<f32>; BLOCK]) {
    const INVERSE: f32 = 1.0 / 127.5;
    for (out, &byte) in out.iter_mut().zip(bytes) {
        let value = f32::from(byte);
        let rough = value * INVERSE;
        let rest = (-rough).mul_add(127.5, value);
        out.write(rest.mul_add(INVERSE, rough) - 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instructions_have_the_bits_of_the_quotient() {
        let bytes: Vec<u8> = (0..3 * 1000_usize).map(|index| (index * index % 257) as u8).collect();
        for channels in [1, 3] {
            for pixels in [0, 1, 31, 32, 33, 64, 256, 1000] {
                let bytes = &bytes[..pixels * channels];
                let quotients = (0..channels).flat_map(|channel| bytes.iter().skip(channel).step_by(channels));
                let expected: Vec<f32> = quotients.map(|&value| f32::from(value) / 127.5 - 1.0).collect();
                let mut values = vec![9.0];
                append(bytes, channels, &mut values);
                assert_eq!((values[0], &values[1..]), (9.0, &expected[..]), "{channels} {pixels}");
                let mut portable = vec![MaybeUninit::new(0.0); bytes.len()];
                write_portable(bytes, channels, &mut portable);
                // SAFETY: all of them are initialized.
                let portable: Vec<f32> = portable.iter().map(|value| unsafe { value.assume_init() }).collect();
                assert_eq!(portable, expected, "{channels} {pixels}");
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        let mut values = Vec::new();
        append(&all, 1, &mut values);
        assert_eq!(values, SCALED);
    }
}
