//! Names of images: bytes, which need not be UTF-8.

use admiral_contract::controls_terminal;

/// The endings of the names of image files, in the order in which they are preferred among the files of a sample.
/// The last ones are other endings that Pillow knows for the same formats.
pub(crate) const IMAGE_ENDINGS: [&str; 12] =
    ["jpg", "jpeg", "png", "webp", "gif", "ppm", "pgm", "jfif", "jpe", "mpo", "apng", "pnm"];

/// The endings of the names of image files of formats that are not read.
const OTHER_ENDINGS: [&str; 30] = [
    "arw", "avif", "avifs", "bmp", "cr2", "cur", "dds", "dib", "dng", "exr", "hdr", "heic", "heif", "hif", "ico",
    "j2c", "j2k", "jp2", "jpc", "jpf", "jpx", "jxl", "nef", "pbm", "pcx", "psd", "qoi", "tga", "tif", "tiff",
];

/// Returns the last part of a path.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Returns the place in [`IMAGE_ENDINGS`] of the ending of a file's name.
pub(crate) fn image_ending(ending: &[u8]) -> Option<usize> {
    IMAGE_ENDINGS.iter().position(|image| ending.eq_ignore_ascii_case(image.as_bytes()))
}

/// Returns whether a path ends like that of an image file.
#[must_use]
pub fn is_image_name(path: &[u8]) -> bool {
    ending(path).is_some_and(|ending| image_ending(ending).is_some())
}

/// Returns whether a path ends like that of an image file of a format that is not read.
pub(crate) fn is_other_image_name(path: &[u8]) -> bool {
    ending(path).is_some_and(|ending| OTHER_ENDINGS.iter().any(|other| ending.eq_ignore_ascii_case(other.as_bytes())))
}

/// Returns what follows the last dot of a file's name.
fn ending(path: &[u8]) -> Option<&[u8]> {
    let name = file_name(path);
    name.iter().rposition(|&byte| byte == b'.').map(|dot| &name[dot + 1..])
}

/// Returns whether a part of a path is hidden: its name begins with a dot. Some systems add such files, and a folder
/// `__MACOSX` that holds them, to archives. The parts `.` and `..` are no names.
#[must_use]
pub fn is_hidden(path: &[u8]) -> bool {
    let is_hidden = |part: &[u8]| part.starts_with(b".") && part != b"." && part != b"..";
    path.split(|&byte| byte == b'/').any(|part| is_hidden(part) || part == b"__MACOSX")
}

/// Returns a path without `./` at its front.
pub(crate) fn without_dot(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    path
}

/// Returns a name as text. Bytes that are not UTF-8, control characters and characters that are not seen are shown as
/// numbers, so that different names look different and a name cannot change a terminal.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || controls_terminal(character) {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_hidden_files_are_known_by_their_names() {
        let read = ["a/b.JPG", "b.jpeg", "x.y.png", "c.webp", "d.gif", "e.ppm", "f.PGM", "g.jfif", "h.JPE", "i.apng"];
        for name in read.iter().chain(&["j.PNM", "k.mpo"]) {
            assert!(is_image_name(name.as_bytes()) && !is_other_image_name(name.as_bytes()), "{name}");
        }
        for name in ["a.bmp", "b/c.TIF", "d.tiff", "e.avif", "f.jp2", "g.heic"] {
            assert!(!is_image_name(name.as_bytes()) && is_other_image_name(name.as_bytes()), "{name}");
        }
        for name in ["a.png/b", "a.bmp/b", "jpg", "bmp", "a.txt", ""] {
            assert!(!is_image_name(name.as_bytes()) && !is_other_image_name(name.as_bytes()), "{name}");
        }
        assert!(is_hidden(b".a/b.png") && is_hidden(b"a/._b.png") && is_hidden(b"__MACOSX/b.png"));
        assert!(!is_hidden(b"./a/b.png") && !is_hidden(b"a.b/c.png"));
        assert!(!is_hidden(b"../a/../b.png") && is_hidden(b"../.b.png") && is_hidden(b"...b.png"));
        assert_eq!(without_dot(b"././a/./b"), b"a/./b");
    }

    #[test]
    fn names_are_shown_without_ambiguity() {
        assert_eq!(shown("\u{202e}gpj.a\u{200b}".as_bytes()), "\\u{202e}gpj.a\\u{200b}");
        assert_eq!(shown(b"a\xff\n\x1b[31m"), "a\\xff\\n\\u{1b}[31m");
    }
}
