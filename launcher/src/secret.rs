//! Which variables are secrets, and how their values are shown.

/// A variable whose name contains one of these, in any case, is a secret.
const PARTS: [&str; 11] = [
    "ACCESS_KEY",
    "API_KEY",
    "APIKEY",
    "AUTH",
    "CREDENTIAL",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE",
    "SECRET",
    "TOKEN",
];
const SHOWN: &str = "(secret, not shown)";

/// Returns whether the variable of this name is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// Returns the value of a variable as it may be shown. Secrets, and the user and password in a URL, are replaced.
#[must_use]
pub fn masked(name: &str, value: &str) -> String {
    if is_secret(name) {
        return SHOWN.to_owned();
    }
    match user_part(value) {
        Some((start, end)) => format!("{}{SHOWN}{}", &value[..start], &value[end..]),
        None => value.to_owned(),
    }
}

/// Returns whether a URL in the value holds a user's name or password.
#[must_use]
pub fn has_user(value: &str) -> bool {
    user_part(value).is_some()
}

/// Returns the byte range of the user and password in `scheme://user:password@host` or `user:password@host`. A password
/// may contain any character, so the range ends at the last `@`.
fn user_part(value: &str) -> Option<(usize, usize)> {
    let end = value.rfind('@')?;
    let (start, has_scheme) = value[..end].find("://").map_or((0, false), |scheme| (scheme + 3, true));
    let user = &value[start..end];
    // Without a scheme, a path may contain both characters as well: /opt/a:/opt/b@1.0.
    (has_scheme || user.contains(':') && !user.contains('/')).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "x_auth", "KEY_PASSPHRASE", "db_password", "HF_TOKEN"] {
            assert_eq!(masked(name, "hush"), "(secret, not shown)", "{name}");
        }
        assert_eq!(masked("OMP_NUM_THREADS", "4"), "4");
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        for (value, shown) in [
            ("http://me:hush@proxy:1/x", "http://(secret, not shown)@proxy:1/x"),
            ("http://me:hu/s@h@proxy:1", "http://(secret, not shown)@proxy:1"),
            ("http://hush@proxy", "http://(secret, not shown)@proxy"),
            ("me:hush@proxy:1", "(secret, not shown)@proxy:1"),
            ("http://a:hush@x,http://b:hush@y", "http://(secret, not shown)@y"),
            ("http://proxy:1/x", "http://proxy:1/x"),
            ("me@example.org", "me@example.org"),
            ("/opt/a:/opt/b@1.0/lib", "/opt/a:/opt/b@1.0/lib"),
        ] {
            assert_eq!(masked("HTTPS_PROXY", value), shown);
            assert_eq!(has_user(value), value != shown);
        }
    }
}
