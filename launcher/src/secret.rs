//! Which variables hold secrets, and how such a value is shown.

/// A variable with one of these in its name, in whatever case, is a secret.
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

/// Whether the value of a variable is a secret, by its name.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// A variable's value as it may be shown: a secret, or the user and the password in an address, is not.
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

/// Whether an address in a value holds a user's name or password.
#[must_use]
pub fn has_user(value: &str) -> bool {
    user_part(value).is_some()
}

/// Where in `scheme://user:password@host`, or in `user:password@host`, the user and the password stand. A password may
/// hold any sign, so all up to the last `@` is taken for it.
fn user_part(value: &str) -> Option<(usize, usize)> {
    let end = value.rfind('@')?;
    let (start, has_scheme) = value[..end].find("://").map_or((0, false), |scheme| (scheme + 3, true));
    let user = &value[start..end];
    // Without a scheme a path may hold both signs as well: /opt/a:/opt/b@1.0.
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
