//! Lists and aborts multipart uploads whose writers died. A bucket keeps and bills their parts, but does not list them as
//! objects.

mod bucket;
mod listing;
mod uploads;

pub(crate) use uploads::MultipartUploads;
