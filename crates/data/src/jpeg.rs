//! Decodes JPEG files with libjpeg, in the build of MozJPEG, whose pixels are those of the libjpeg-turbo of Pillow.

use std::any::Any;
use std::ffi::{c_int, c_long};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use mozjpeg_sys::{
    J_COLOR_SPACE, boolean, jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct,
    jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress, jpeg_progress_mgr, jpeg_read_header,
    jpeg_read_scanlines, jpeg_resync_to_restart, jpeg_source_mgr, jpeg_start_decompress, jpeg_std_error,
};

use super::buffers::Buffers;
use super::limits::{MAX_SCANS, refusal};
use super::pixels::Pixels;

/// Decodes a JPEG file. `reduction` returns by how much an image of a short side is reduced: 1, 2, 4 or 8.
///
/// # Errors
/// If the bytes are not a complete JPEG file. The error is the reason.
pub(crate) fn decode_jpeg(
    bytes: &[u8],
    reduction: impl FnOnce(usize) -> usize,
    buffers: &mut Buffers,
) -> Result<Pixels, String> {
    // libjpeg reports errors by unwinding.
    let decoded = catch_unwind(AssertUnwindSafe(|| decompress(bytes, reduction, buffers)));
    decoded.unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

/// Returns the width and the height of a JPEG file. Only its header is read.
///
/// # Errors
/// If it is damaged. The error is the reason.
pub(crate) fn jpeg_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let read = catch_unwind(AssertUnwindSafe(|| Decompressor::new(bytes).read_header()));
    let (width, height, _) = read.unwrap_or_else(|panic| Err(panic_text(&*panic)))?;
    Ok((width, height))
}

/// Returns the message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the decoder failed").to_owned()
}

fn decompress(bytes: &[u8], reduction: impl FnOnce(usize) -> usize, buffers: &mut Buffers) -> Result<Pixels, String> {
    let mut decompressor = Decompressor::new(bytes);
    let (width, height, stored) = decompressor.read_header()?;
    // Before memory for the whole image is allocated.
    if let Some(reason) = refusal(width, height) {
        return Err(reason);
    }
    let (wanted, values) = match stored {
        J_COLOR_SPACE::JCS_GRAYSCALE => (J_COLOR_SPACE::JCS_GRAYSCALE, 1),
        J_COLOR_SPACE::JCS_CMYK | J_COLOR_SPACE::JCS_YCCK => (J_COLOR_SPACE::JCS_CMYK, 4),
        _ => (J_COLOR_SPACE::JCS_RGB, 3),
    };
    let (width, height) = decompressor.start(wanted, reduction(width.min(height)))?;
    let mut data = buffers.take(width * height * values);
    decompressor.read(&mut data)?;
    let (channels, bytes) = match values {
        1 => (1, data),
        4 => (3, inverted_cmyk_to_rgb(&data)),
        _ => (3, data),
    };
    Ok(Pixels { width, height, channels, bytes })
}

/// Converts CMYK to RGB. The inks are inverted, as in Adobe's JPEG files. Pillow also assumes this.
fn inverted_cmyk_to_rgb(data: &[u8]) -> Vec<u8> {
    data.chunks_exact(4)
        .flat_map(|pixel| {
            let white = u32::from(pixel[3]);
            [0, 1, 2].map(|channel| {
                // Compute ink * white / 255 in integers, rounded.
                let product = u32::from(255 - pixel[channel]) * white + 128;
                white.saturating_sub(((product >> 8) + product) >> 8) as u8
            })
        })
        .collect()
}

/// libjpeg's decompressor of a file in memory. It points to itself, so its parts do not move.
struct Decompressor<'a> {
    info: Box<jpeg_decompress_struct>,
    source: Box<Source>,
    /// The decompressor points to these two.
    _errors: Box<jpeg_error_mgr>,
    _progress: Box<jpeg_progress_mgr>,
    bytes: PhantomData<&'a [u8]>,
}

/// The source of libjpeg's input.
#[repr(C)]
struct Source {
    /// The first field, so that libjpeg's pointer to it is a pointer to the source.
    manager: jpeg_source_mgr,
    /// Whether more bytes were requested than there are. libjpeg then fills the image with gray, without an error.
    ran_out: bool,
}

/// What libjpeg reads after the end of the file: an end of the image.
const END: &[u8; 2] = &[0xFF, 0xD9];

impl<'a> Decompressor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let manager = jpeg_source_mgr {
            next_input_byte: bytes.as_ptr(),
            bytes_in_buffer: bytes.len(),
            init_source: Some(do_nothing),
            fill_input_buffer: Some(end_input),
            skip_input_data: Some(skip_input),
            resync_to_restart: Some(resync),
            term_source: Some(do_nothing),
        };
        let mut source = Box::new(Source { manager, ran_out: false });
        let mut progress = Box::new(jpeg_progress_mgr {
            progress_monitor: Some(limit_scans),
            pass_counter: 0,
            pass_limit: 0,
            completed_passes: 0,
            total_passes: 0,
        });
        // SAFETY: all fields of both structs are numbers, pointers that may be null, or enums with a variant 0. libjpeg
        // fills them before it reads them.
        let (mut info, mut errors) = unsafe {
            (Box::new(std::mem::zeroed::<jpeg_decompress_struct>()), Box::new(std::mem::zeroed::<jpeg_error_mgr>()))
        };
        // SAFETY: the boxes live as long as the decompressor, and `bytes` longer.
        unsafe {
            jpeg_std_error(&mut errors);
            errors.error_exit = Some(unwind);
            errors.emit_message = Some(ignore_message);
            info.common.err = &raw mut *errors;
            jpeg_create_decompress(&raw mut *info);
        }
        info.src = (&raw mut *source).cast();
        info.common.progress = &raw mut *progress;
        Self { info, source, _errors: errors, _progress: progress, bytes: PhantomData }
    }

    /// Returns the width, the height and the color space of the image.
    fn read_header(&mut self) -> Result<(usize, usize, J_COLOR_SPACE), String> {
        // SAFETY: the decompressor was created and has a source.
        if unsafe { jpeg_read_header(&mut self.info, boolean::from(true)) } != 1 {
            return Err("it has no image".into());
        }
        Ok((self.info.image_width as usize, self.info.image_height as usize, self.info.jpeg_color_space))
    }

    /// Starts to decode to a color space, with sides divided by `reduction`. Returns the width and the height of the result.
    fn start(&mut self, wanted: J_COLOR_SPACE, reduction: usize) -> Result<(usize, usize), String> {
        self.info.out_color_space = wanted;
        (self.info.scale_num, self.info.scale_denom) = (1, reduction as u32);
        // SAFETY: the header was read.
        if unsafe { jpeg_start_decompress(&mut self.info) } == 0 {
            return Err("the file ends too early".into());
        }
        Ok((self.info.output_width as usize, self.info.output_height as usize))
    }

    /// Reads all rows, and the end of the file.
    fn read(mut self, data: &mut [u8]) -> Result<(), String> {
        let stride = self.info.output_width as usize * self.info.output_components as usize;
        // As many rows as libjpeg can return at once.
        const ROWS: usize = 4;
        for rows in data.chunks_mut(stride * ROWS) {
            let mut done = 0;
            let count = rows.len() / stride;
            while done < count {
                let mut pointers = [ptr::null_mut(); ROWS];
                for (pointer, row) in pointers.iter_mut().zip(rows[done * stride..].chunks_exact_mut(stride)) {
                    *pointer = row.as_mut_ptr();
                }
                // SAFETY: decoding has started, and each pointer is to a row of this image.
                let read = unsafe { jpeg_read_scanlines(&mut self.info, pointers.as_mut_ptr(), (count - done) as u32) };
                if read == 0 {
                    return Err("the file ends too early".into());
                }
                done += read as usize;
            }
        }
        // SAFETY: all rows were read. This reads to the end of the image, which detects a file without an end marker.
        let is_complete = unsafe { jpeg_finish_decompress(&mut self.info) } != 0;
        if !is_complete || self.source.ran_out { Err("the file ends too early".into()) } else { Ok(()) }
    }
}

impl Drop for Decompressor<'_> {
    fn drop(&mut self) {
        // SAFETY: the decompressor was created, and is not used any more.
        unsafe { jpeg_destroy_decompress(&mut self.info) }
    }
}

extern "C-unwind" fn do_nothing(_: &mut jpeg_decompress_struct) {}

pub(crate) extern "C-unwind" fn ignore_message(_: &mut jpeg_common_struct, _: c_int) {}

/// Returns the source of a decompressor.
fn source(info: &mut jpeg_decompress_struct) -> &mut Source {
    // SAFETY: `Decompressor::new` has set it, and nothing else refers to it while libjpeg runs.
    unsafe { &mut *info.src.cast() }
}

extern "C-unwind" fn end_input(info: &mut jpeg_decompress_struct) -> boolean {
    let source = source(info);
    source.ran_out = true;
    source.manager.next_input_byte = END.as_ptr();
    source.manager.bytes_in_buffer = END.len();
    boolean::from(true)
}

extern "C-unwind" fn skip_input(info: &mut jpeg_decompress_struct, count: c_long) {
    let Ok(count) = usize::try_from(count) else { return };
    let manager = &mut source(info).manager;
    if count > manager.bytes_in_buffer {
        end_input(info);
    } else {
        manager.bytes_in_buffer -= count;
        // SAFETY: that many bytes are left.
        manager.next_input_byte = unsafe { manager.next_input_byte.add(count) };
    }
}

extern "C-unwind" fn resync(info: &mut jpeg_decompress_struct, desired: c_int) -> boolean {
    // SAFETY: libjpeg calls this with its own decompressor.
    unsafe { jpeg_resync_to_restart(info, desired) }
}

/// Unwinds with the message of an error.
pub(crate) extern "C-unwind" fn unwind(info: &mut jpeg_common_struct) {
    type Format = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, *mut u8);
    // SAFETY: libjpeg calls this with the errors that it was given. Its function writes to the buffer, of 200 bytes
    // (JMSG_LENGTH_MAX), which the binding declares as constant and shorter.
    let format = unsafe { (*info.err).format_message.map(|format| std::mem::transmute::<_, Format>(format)) };
    let mut buffer = [0_u8; 200];
    if let Some(format) = format {
        // SAFETY: as above.
        unsafe { format(info, buffer.as_mut_ptr()) };
    }
    let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
    // This does not call the panic hook.
    std::panic::resume_unwind(Box::new(String::from_utf8_lossy(&buffer[..end]).into_owned()));
}

/// Unwinds if the file has too many scans. Each scan of a few bytes goes over the whole image.
extern "C-unwind" fn limit_scans(info: &mut jpeg_common_struct) {
    // SAFETY: this is only called for a decompressor, whose first field is `info`.
    let scans = unsafe { (*ptr::from_mut(info).cast::<jpeg_decompress_struct>()).input_scan_number };
    if scans > MAX_SCANS {
        std::panic::resume_unwind(Box::new(format!("it has more than {MAX_SCANS} scans")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverted_cmyk_becomes_rgb() {
        assert_eq!(
            inverted_cmyk_to_rgb(&[255, 255, 255, 255, 0, 255, 255, 255, 9, 9, 9, 0]),
            [255, 255, 255, 0, 255, 255, 0, 0, 0]
        );
    }
}
