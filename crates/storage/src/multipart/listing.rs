//! Parses the answer to S3's request `ListMultipartUploads`. Google Cloud Storage answers in the same form.

use object_store::Result;
use serde::Deserialize;

/// The answer of S3, by the name of its root element.
#[derive(Debug, Deserialize)]
enum Document {
    ListMultipartUploadsResult(Page),
    #[serde(rename_all = "PascalCase")]
    Error {
        code: String,
        #[serde(default)]
        message: String,
    },
}

/// One page of unfinished uploads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Page {
    #[serde(default)]
    pub(super) upload: Vec<Listed>,
    // Required, because without it the list may be incomplete.
    pub(super) is_truncated: bool,
    pub(super) next_key_marker: Option<String>,
    pub(super) next_upload_id_marker: Option<String>,
}

/// An unfinished upload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) upload_id: String,
    pub(super) initiated: Option<String>,
}

/// The error of an answer that is invalid or missing.
pub(super) fn invalid(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "bucket", source: source.into() }
}

/// Parses an answer of S3.
///
/// # Errors
/// If the answer is an error document, or not what S3 documents.
pub(super) fn parse(document: &str) -> Result<Page> {
    match quick_xml::de::from_str(document) {
        Ok(Document::ListMultipartUploadsResult(page)) => Ok(page),
        Ok(Document::Error { code, message }) => Err(invalid(format!("{code}: {message}"))),
        Err(error) => Err(invalid(format!("the list of uploads is not what S3 documents: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_of_s3_are_parsed_and_malformed_ones_are_refused() {
        let page = parse(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n\
             <Bucket>b</Bucket><KeyMarker/><UploadIdMarker></UploadIdMarker><MaxUploads>2</MaxUploads>\n\
             <NextKeyMarker>a&amp;b</NextKeyMarker><NextUploadIdMarker>x</NextUploadIdMarker>\n\
             <IsTruncated>true</IsTruncated><CommonPrefixes><Prefix>z/</Prefix></CommonPrefixes>\n\
             <Upload><Key>a&lt;&#x20;b</Key><UploadId>x</UploadId><Initiator><ID>i</ID></Initiator>\n\
             <StorageClass>STANDARD</StorageClass><Initiated>2026-11-10T20:48:33.000Z</Initiated></Upload>\n\
             <Unknown><Upload/></Unknown><Upload><UploadId>y</UploadId><Key>c</Key></Upload>\n\
             </ListMultipartUploadsResult>",
        )
        .unwrap();
        let keys: Vec<&str> = page.upload.iter().map(|upload| upload.key.as_str()).collect();
        assert_eq!(keys, ["a< b", "c"]);
        assert!(page.is_truncated);
        assert_eq!(page.next_key_marker.unwrap(), "a&b");
        assert_eq!(page.upload[1].initiated, None);

        let deep = "<a>".repeat(100_000);
        let page = |inside: &str| format!("<ListMultipartUploadsResult>{inside}</ListMultipartUploadsResult>");
        let refused = [
            "".into(),
            "no XML".into(),
            "{}".into(),
            "\0\u{feff}<".into(),
            "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".into(),
            "<ListMultipartUploadsResult>".into(),
            page(""),
            page("<IsTruncated>perhaps</IsTruncated>"),
            page("<IsTruncated>false</IsTruncated><Upload><Key>k</Key></Upload>"),
            page("<IsTruncated>false</IsTruncated><Upload><Key>&xxe;</Key><UploadId>1</UploadId></Upload>"),
            format!(
                "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>{}",
                page("<IsTruncated>false</IsTruncated><Upload><Key>&b;</Key><UploadId>1</UploadId></Upload>")
            ),
            format!("<ListMultipartUploadsResult>{deep}"),
        ];
        for document in &refused {
            let start: String = document.chars().take(200).collect();
            assert!(parse(document).is_err(), "{start}");
        }
    }
}
