//! Timeouts, sizes and credentials of a store.

use std::str::FromStr;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use url::Url;

use crate::error::Error;

/// The longest pause before a retry.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(15);

/// How a store is accessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The time that one request may take before it is retried.
    pub request_timeout: Duration,
    /// The time after which an operation is no longer retried.
    pub patience: Duration,
    /// The size of the parts of an upload, in bytes.
    pub part_bytes: usize,
    /// Region, credentials and endpoint of S3.
    pub s3: S3Settings,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(1575),
            part_bytes: 16 << 20,
            s3: S3Settings::default(),
        }
    }
}

/// Whether connections without TLS are allowed.
const ALLOW_HTTP: AmazonS3ConfigKey = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);

/// The settings of S3 from the environment variables `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and others
/// that start with `AWS_`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Settings(Vec<Setting>);

/// An environment variable.
#[derive(Clone, PartialEq, Eq)]
struct Setting {
    key: AmazonS3ConfigKey,
    /// The variable's name, for messages.
    name: String,
    value: String,
}

impl std::fmt::Debug for S3Settings {
    /// Prints the names of the settings without their values, some of which are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|setting| setting.key.as_ref())).finish()
    }
}

impl S3Settings {
    /// Takes the settings from environment variables. Unknown variables are ignored.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let known = vars.into_iter().filter(|(name, _)| name.starts_with("AWS_")).filter_map(|(name, value)| {
            let key = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()).ok()?;
            // An empty optional variable means none. Without its endpoint, a request would go to another server.
            (!value.is_empty() || is_endpoint(key)).then_some(Setting { key, name, value })
        });
        Self(known.collect())
    }

    pub(crate) fn builder(&self) -> AmazonS3Builder {
        self.0.iter().fold(AmazonS3Builder::new(), |builder, setting| builder.with_config(setting.key, &setting.value))
    }

    /// Checks all values before a client is made from them. The client panics on some wrong values, and tries requests
    /// again and again that can never be sent.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for Setting { key, name, value } in &self.0 {
            let refuse = |reason: String| Err(Error::Variable { variable: name.clone(), reason });
            if value.is_empty() {
                return refuse("is empty; unset it, or give it a value".into());
            }
            if name.eq_ignore_ascii_case("AWS_PROXY_CA_CERTIFICATE") {
                // The text of a certificate has line breaks.
                continue;
            }
            if let Some(bad) = value.chars().find(|letter| letter.is_control()) {
                let kind = if matches!(bad, '\n' | '\r') { "a line break" } else { "a control character" };
                return refuse(format!("has {kind} in it or at its end; set it again without"));
            }
            if !value.is_ascii() || value.trim() != value {
                return refuse("has a space at an end, or a character that is not ASCII; set it again without".into());
            }
            if is_switch(*key) && switch(value).is_none() {
                return refuse("is neither true nor false".into());
            }
        }
        for Setting { name, value, .. } in self.0.iter().filter(|setting| is_endpoint(setting.key)) {
            let refuse = |reason: String| Err(Error::Variable { variable: name.clone(), reason });
            self.check_endpoint(value).or_else(refuse)?;
        }
        self.check_credentials()
    }

    /// Checks the URL of a server.
    fn check_endpoint(&self, value: &str) -> Result<(), String> {
        let form = "the form is http://HOST:PORT or https://HOST:PORT";
        // `host:9000` is a URL as well, whose scheme is `host`.
        let Some((scheme, _)) = value.split_once("://") else { return Err(format!("has no scheme; {form}")) };
        let url = Url::parse(value).map_err(|error| format!("is not a URL ({error}); {form}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a name or password in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead".into());
        }
        match scheme {
            "https" => Ok(()),
            "http" if self.is_on(ALLOW_HTTP) => Ok(()),
            "http" => Err("is not encrypted; set AWS_ALLOW_HTTP=true to allow that, or use https".into()),
            _ => Err(format!("has the scheme {scheme}; {form}")),
        }
    }

    /// Checks that there are credentials. Without any, the client asks the metadata service of an EC2 machine, which
    /// elsewhere ends in a timeout that does not say what is missing.
    fn check_credentials(&self) -> Result<(), Error> {
        use AmazonS3ConfigKey as Key;
        let has = |key: Key| self.0.iter().any(|setting| setting.key == key);
        let missing = |variable: &str, reason: &str| {
            Err(Error::Variable { variable: variable.to_owned(), reason: reason.to_owned() })
        };
        match (has(Key::AccessKeyId), has(Key::SecretAccessKey)) {
            (true, true) => return Ok(()),
            (true, false) => return missing("AWS_SECRET_ACCESS_KEY", "is not set, but AWS_ACCESS_KEY_ID is; set both"),
            (false, true) => return missing("AWS_ACCESS_KEY_ID", "is not set, but AWS_SECRET_ACCESS_KEY is; set both"),
            (false, false) => {}
        }
        // The kinds of credentials and the pairs of settings that the client knows.
        let has_others = self.is_on(Key::SkipSignature)
            || (has(Key::WebIdentityTokenFile) && has(Key::RoleArn))
            || has(Key::ContainerCredentialsRelativeUri)
            || (has(Key::ContainerCredentialsFullUri) && has(Key::ContainerAuthorizationTokenFile))
            || has(Key::MetadataEndpoint);
        // The metadata service knows credentials of AWS only, not those of another server.
        let is_elsewhere = |setting: &Setting| is_endpoint(setting.key) && !setting.value.contains(".amazonaws.com");
        if has_others || (!self.0.iter().any(is_elsewhere) && is_ec2()) {
            return Ok(());
        }
        missing(
            "AWS_ACCESS_KEY_ID",
            "is not set; set it and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
        )
    }

    fn is_on(&self, key: AmazonS3ConfigKey) -> bool {
        self.0.iter().any(|setting| setting.key == key && switch(&setting.value) == Some(true))
    }
}

/// Returns the meaning of a switch, in the spellings that the client knows. `None` for other text.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Some(true),
        "0" | "false" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

/// Returns whether a setting is true or false.
fn is_switch(key: AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as Key;
    matches!(
        key,
        ALLOW_HTTP
            | Key::SkipSignature
            | Key::VirtualHostedStyleRequest
            | Key::S3Express
            | Key::ImdsV1Fallback
            | Key::UnsignedPayload
            | Key::DisableTagging
            | Key::DisableBulkDelete
            | Key::RequestPayer
    )
}

/// Returns whether a setting is the URL of an S3 server.
fn is_endpoint(key: AmazonS3ConfigKey) -> bool {
    matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint)
}

/// Returns whether this machine is one of Amazon's. Older ones run on Xen, and only their BIOS says it.
fn is_ec2() -> bool {
    ["sys_vendor", "product_version", "bios_version"].iter().any(|name| {
        std::fs::read_to_string(format!("/sys/class/dmi/id/{name}"))
            .is_ok_and(|text| text.to_ascii_lowercase().contains("amazon"))
    })
}

/// Returns the builder of a client for `bucket`, with timeouts.
pub(crate) fn s3_builder(bucket: &str, options: &StoreOptions) -> AmazonS3Builder {
    with_timeouts(options.s3.builder().with_bucket_name(bucket), options)
}

/// Sets the timeouts of a client.
pub(crate) fn with_timeouts(builder: AmazonS3Builder, options: &StoreOptions) -> AmazonS3Builder {
    let seconds = |time: Duration| format!("{} seconds", time.as_secs().max(1));
    // Shorter than the timeout of the request, so that the error shows which of the two expired.
    let connect = (options.request_timeout / 2).min(Duration::from_secs(10));
    builder
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), seconds(options.request_timeout))
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), seconds(connect))
}

/// Returns how the client retries a request.
pub(crate) fn client_retries(options: &StoreOptions) -> RetryConfig {
    // The client checks its timeout before a pause, not after. The patience has to cover the last pause too.
    let max_backoff = MAX_PAUSE.min(options.patience / 8);
    RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff, base: 2.0 },
        max_retries: 10,
        // Shorter than the timeout of a small operation, so that the operation fails with the message of the server.
        retry_timeout: (options.request_timeout * 3).min(options.patience * 3 / 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_variables_become_settings_and_their_values_are_not_printed() {
        let vars = [("AWS_REGION", "eu-1"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_UNKNOWN", "x"), ("HOME", "/")];
        let settings = S3Settings::from_vars(vars.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let builder = settings.builder();
        assert_eq!(builder.get_config_value(&AmazonS3ConfigKey::Region).as_deref(), Some("eu-1"));
        assert_eq!(settings.0.len(), 2);
        let printed = format!("{settings:?}");
        assert!(printed.contains("region") && !printed.contains("hidden"), "{printed}");
    }

    /// Checks the settings of a usual server with one variable changed.
    fn check(name: &str, value: Option<&str>) -> Result<(), String> {
        let usual = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ];
        let others = usual.into_iter().filter(|(other, _)| *other != name);
        let vars = others.chain(value.map(|value| (name, value)));
        let settings = S3Settings::from_vars(vars.map(|(name, value)| (name.to_owned(), value.to_owned())));
        settings.check().map_err(|error| error.to_string())
    }

    #[test]
    fn unusable_variables_are_refused_by_their_names() {
        assert_eq!(check("AWS_REGION", Some("eu-1")), Ok(()));
        assert_eq!(check("AWS_ENDPOINT_URL", Some("https://[::1]:9000")), Ok(()));
        assert_eq!(check("AWS_SESSION_TOKEN", Some("")), Ok(()));
        assert_eq!(check("AWS_ALLOW_HTTP", Some("1")), Ok(()));
        assert_eq!(check("AWS_PROXY_CA_CERTIFICATE", Some("-----BEGIN\nabc\n")), Ok(()));
        for (name, value, word) in [
            ("AWS_ENDPOINT_URL", "localhost:9000", "scheme"),
            ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "scheme"),
            ("AWS_ENDPOINT_URL", "ftp://host", "scheme"),
            ("AWS_ENDPOINT_URL", "http://", "not a URL"),
            ("AWS_ENDPOINT_URL", "http://me:secret@host", "password"),
            ("AWS_ENDPOINT_URL_S3", "host", "scheme"),
            ("AWS_ENDPOINT_URL", "", "empty"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9\n", "line break"),
            ("AWS_ACCESS_KEY_ID", "t\n", "line break"),
            ("AWS_REGION", "us-east-1\r", "line break"),
            ("AWS_SESSION_TOKEN", "t\u{1}", "control"),
            ("AWS_SECRET_ACCESS_KEY", "very-secret ", "space"),
            ("AWS_ALLOW_HTTP", "jes", "true nor false"),
        ] {
            let error = check(name, Some(value)).expect_err(value);
            assert!(error.contains(name) && error.contains(word), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(check("AWS_ALLOW_HTTP", None).is_err_and(|error| error.contains("AWS_ALLOW_HTTP")));
        assert!(check("AWS_ALLOW_HTTP", Some("false")).is_err_and(|error| error.contains("AWS_ALLOW_HTTP")));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            assert!(check(name, None).is_err_and(|error| error.contains(name)));
        }
    }

    #[test]
    fn missing_credentials_are_named_unless_another_kind_is_given() {
        let with = |vars: &[(&str, &str)]| {
            let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            S3Settings::from_vars(vars.chain([("AWS_ENDPOINT_URL".to_owned(), "https://host".to_owned())])).check()
        };
        assert!(with(&[]).is_err_and(|error| error.to_string().contains("AWS_ACCESS_KEY_ID is not set")));
        for (other, partner) in [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        ] {
            assert!(with(&[(other, "x")]).is_err(), "{other} without {partner}");
            assert_eq!(with(&[(other, "x"), (partner, "y")]), Ok(()), "{other}");
        }
        for alone in ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_METADATA_ENDPOINT"] {
            assert_eq!(with(&[(alone, "x")]), Ok(()), "{alone}");
        }
        assert_eq!(with(&[("AWS_SKIP_SIGNATURE", "1")]), Ok(()));
    }
}
