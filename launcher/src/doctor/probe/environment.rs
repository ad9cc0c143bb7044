//! The variables that affect a rank.

use std::collections::BTreeMap;
use std::ffi::OsString;

use sha2::{Digest, Sha256};

use crate::environment::Environment;
use admiral_contract::secret::{has_user, is_secret};

/// Prefixes of names that matter: threads, NCCL, Open MPI's transport, CUDA, libtorch, object stores, and network
/// libraries.
const PREFIXES: [&str; 26] = [
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "NCCL_",
    "CUDA_",
    "NVIDIA_",
    "TORCH_",
    "PYTORCH_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "UCX_",
    "FI_",
    "MALLOC_",
    "SSL_CERT_",
    "ADMIRAL_",
    "OMPI_MCA_btl",
    "OMPI_MCA_oob",
    "OMPI_MCA_pml",
    "OMPI_MCA_mtl",
    "OMPI_MCA_coll",
    "OMPI_MCA_osc",
    "OMPI_MCA_opal",
    "OMPI_MCA_mpi",
    "OMPI_MCA_hwloc",
];
const NAMES: [&str; 13] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];
/// Set for every process by the one that started it.
const EXCLUDED: [&str; 1] = ["OMPI_MCA_mpi_oversubscribe"];
/// The launcher's own variables for its processes.
const LAUNCH_PREFIX: &str = "ADMIRAL_LAUNCH_";
const PROBE_PREFIX: &str = "ADMIRAL_PROBE_";
/// Returns the variables that affect a rank. Secrets are hashed with the salt, so that they can be compared between
/// hosts, and nothing else.
pub fn selected(environment: &Environment, salt: &str) -> BTreeMap<String, String> {
    let text = |text: &OsString| text.to_string_lossy().into_owned();
    let variables = environment.variables.iter();
    let chosen = variables.map(|(name, value)| (text(name), text(value))).filter(|(name, _)| matters(name));
    chosen
        .map(|(name, value)| {
            // The address of a proxy may contain a password.
            let value = if is_secret(&name) || has_user(&value) { hashed(&value, salt) } else { value };
            (name, value)
        })
        .collect()
}

fn matters(name: &str) -> bool {
    let is_own = name.starts_with(LAUNCH_PREFIX) || name.starts_with(PROBE_PREFIX);
    !is_own
        && !EXCLUDED.contains(&name)
        && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

fn hashed(value: &str, salt: &str) -> String {
    let hash = Sha256::new().chain_update(salt).chain_update([0]).chain_update(value).finalize();
    let hex: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("(secret {hex})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)], salt: &str) -> BTreeMap<String, String> {
        let environment = Environment::new(pairs.iter().map(|&(name, value)| (name.into(), value.into())));
        selected(&environment, salt)
    }

    #[test]
    fn variables_of_ranks_are_selected_and_secrets_are_hashed() {
        let variables = [
            ("OMP_NUM_THREADS", "4"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AZURE_STORAGE_SAS_TOKEN", "hunter2"),
            ("GOOGLE_BEARER_TOKEN", "hunter2"),
            ("https_proxy", "http://me:hunter2@proxy"),
            ("HOME", "/root"),
            ("OMPI_MCA_ess_base_vpid", "1"),
            ("OMPI_MCA_btl_tcp_if_include", "eth0"),
            ("ADMIRAL_LAUNCH_TOKEN", "hunter2"),
        ];
        let kept = of(&variables, "a");
        let names: Vec<&str> = kept.keys().map(String::as_str).collect();
        let expected = [
            "AWS_REGION",
            "AWS_SECRET_ACCESS_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "GOOGLE_BEARER_TOKEN",
            "OMPI_MCA_btl_tcp_if_include",
            "OMP_NUM_THREADS",
            "https_proxy",
        ];
        assert_eq!(names, expected);
        assert!(kept.values().all(|value| !value.contains("hunter2")));
        assert_eq!(kept, of(&variables, "a"));
        assert_ne!(kept["AWS_SECRET_ACCESS_KEY"], of(&variables, "b")["AWS_SECRET_ACCESS_KEY"]);
        assert_ne!(kept["AWS_SECRET_ACCESS_KEY"], of(&[("AWS_SECRET_ACCESS_KEY", "x")], "a")["AWS_SECRET_ACCESS_KEY"]);
    }
}
