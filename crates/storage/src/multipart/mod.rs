//! Multipart uploads that nobody will complete, because their writer died. A bucket keeps and bills their parts without
//! showing them.

mod listing;
mod uploads;

pub use uploads::{MultipartUploads, UnfinishedUpload};
